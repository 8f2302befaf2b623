//! One invariant a file, each with its exact statement: pure functions from evidence to violations.

mod acknowledged;
mod at_least_once;
mod audience;
mod conservation;
mod digests;
mod expiry;
mod once;
mod order;
mod promptness;
mod sessions;

#[cfg(test)]
mod made_up;

use crate::evidence::Evidence;

/// One broken promise, in words.
pub type Violation = String;

/// An invariant: its name, and what looks for violations of it.
pub type Check = (&'static str, fn(&Evidence) -> Vec<Violation>);

/// All of them.
pub const ALL: [Check; 10] = [
    ("accepted pushes reach everyone", at_least_once::violations),
    ("delivered means acknowledged", acknowledged::violations),
    ("nobody else receives it", audience::violations),
    ("the counts add up", conservation::violations),
    ("a push exists at most once", once::violations),
    ("first deliveries come in push order", order::violations),
    ("nothing expired is delivered", expiry::violations),
    ("everyone connected receives within 2 s", promptness::violations),
    ("sessions survive", sessions::violations),
    ("replicas agree", digests::violations),
];

/// Every violation of every invariant, with the invariant's name; at most `each` of one kind.
pub fn violations(evidence: &Evidence, each: usize) -> Vec<Violation> {
    let mut all = Vec::new();
    for (name, check) in ALL {
        let found = check(evidence);
        all.extend(found.iter().take(each).map(|violation| format!("{name}: {violation}")));
        if found.len() > each {
            all.push(format!("{name}: and {} more", found.len() - each));
        }
    }
    all
}
