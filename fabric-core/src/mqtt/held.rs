//! The subscriptions of one session, and what a message is to them.

use cluster_proto::{
    Message, PushKind, Qos, TerminalNo,
    link::{Subscription, SubscriptionOptions},
};

use super::{
    action::{Action, Shared},
    session::Matching,
};
use crate::subscriptions::{Filter, filter};

/// A subscription that is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// As subscribed: of a shared subscription with `$share/NAME/`.
    pub(super) filter: Box<str>,
    /// Where the plain filter begins in it.
    plain_at: u16,
    pub(super) qos: Qos,
    pub(super) options: SubscriptionOptions,
    /// QoS 0 of a session that ends with its connection: this edge alone keeps it, it costs no log write.
    pub(super) best_effort: bool,
    /// The number of its shared subscription group, once a delivery has told it.
    group: Option<TerminalNo>,
}

impl Held {
    pub(super) fn new(filter: String, qos: Qos, options: SubscriptionOptions, best_effort: bool) -> Self {
        let plain_at = match filter::validate_filter(&filter) {
            Ok(Filter::Shared { filter: plain, .. }) => filter.len() - plain.len(),
            _ => 0,
        };
        let filter = filter.into_boxed_str();
        Self { filter, plain_at: plain_at as u16, qos, options, best_effort, group: None }
    }

    /// The same, kept by the leader too.
    pub(super) fn replicated(self) -> Self {
        Self { best_effort: false, ..self }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.plain_at > 0
    }

    /// The filter that topics are held against.
    pub(super) fn plain(&self) -> &str {
        &self.filter[usize::from(self.plain_at)..]
    }

    fn matches(&self, topic: &str) -> bool {
        filter::matches(topic, self.plain())
    }

    fn is_special(&self) -> bool {
        let options = self.options;
        options.no_local || options.retain_as_published || options.identifier.is_some()
    }

    pub(super) fn subscription(&self) -> Subscription {
        Subscription { filter: self.filter.to_string(), qos: self.qos, options: self.options }
    }
}

/// What its subscriptions make of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Subscription Identifiers of all that match ([MQTT-3.3.4-3]); to MQTT 5 only.
    pub(super) identifiers: Box<[u32]>,
    /// The RETAIN flag ([MQTT-3.3.1-12], [MQTT-3.3.1-13]).
    pub(super) retain: bool,
}

/// All subscriptions of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Subscriptions {
    held: Vec<Held>,
    /// Some subscription makes a difference beyond whether it matches: then deliveries look at each of them.
    look_at_each: bool,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.held.iter()
    }

    pub(super) fn get(&self, filter: &str) -> Option<&Held> {
        self.held.iter().find(|held| &*held.filter == filter)
    }

    /// [MQTT-3.8.4-3]: replaces a subscription with the same filter; says whether there was one.
    pub(super) fn hold<M>(&mut self, held: Held, out: &mut Vec<Action<M>>) -> bool {
        let (filter, best_effort, shared) = (held.filter.clone(), held.best_effort, held.is_shared());
        let replaced = match self.held.iter_mut().find(|old| old.filter == held.filter) {
            Some(old) => {
                let group = old.group;
                Some(std::mem::replace(old, Held { group, ..held }).best_effort)
            }
            None => {
                self.held.reserve_exact(1);
                self.held.push(held);
                None
            }
        };
        self.look();
        // Pushes for a shared subscription name the member: the index has nothing to find.
        if !shared && replaced != Some(best_effort) {
            if let Some(best_effort) = replaced {
                out.push(Action::Unsubscribed { filter: filter.clone(), best_effort });
            }
            out.push(Action::Subscribed { filter, best_effort });
        }
        replaced.is_some()
    }

    pub(super) fn release<M>(&mut self, filter: &str, out: &mut Vec<Action<M>>) {
        let Some(place) = self.held.iter().position(|held| &*held.filter == filter) else { return };
        let held = self.held.remove(place);
        self.look();
        if !held.is_shared() {
            out.push(Action::Unsubscribed { filter: held.filter, best_effort: held.best_effort });
        }
    }

    pub(super) fn release_all<M>(self, out: &mut Vec<Action<M>>) {
        for held in self.held.into_iter().filter(|held| !held.is_shared()) {
            out.push(Action::Unsubscribed { filter: held.filter, best_effort: held.best_effort });
        }
    }

    fn look(&mut self) {
        let (mut best_effort, mut replicated) = (false, false);
        for held in self.held.iter().filter(|held| !held.is_shared()) {
            best_effort |= held.best_effort;
            replicated |= !held.best_effort;
        }
        self.look_at_each = (best_effort && replicated) || self.held.iter().any(Held::is_special);
    }

    /// The QoS a push is delivered with: at most its own and what was granted ([MQTT-3.8.4-8]), the highest of the
    /// subscriptions that match ([MQTT-3.3.4-2]). `qos0`: none granted more than 0.
    pub(super) fn effective_qos(
        &self,
        message: &Message,
        no: Option<TerminalNo>,
        qos0: bool,
        shared: Option<Shared>,
    ) -> Qos {
        if let Some(shared) = shared {
            return message.qos.min(shared.granted);
        }
        if qos0 {
            return Qos::AtMostOnce;
        }
        if message.qos < Qos::ExactlyOnce || message.kind == PushKind::Identity {
            return message.qos;
        }
        let matching = self.plain_matching(message, is_own(message, no));
        // None matches any more: it was granted 1 or 2 when the push was accepted.
        matching.map(|held| held.qos).max().unwrap_or_default().max(Qos::AtLeastOnce)
    }

    /// What its subscriptions make of a push; an identity push comes from none.
    pub(super) fn view_of_push(
        &mut self,
        message: &Message,
        no: Option<TerminalNo>,
        shared: Option<Shared>,
    ) -> View {
        if !self.look_at_each || message.kind == PushKind::Identity {
            return View::default();
        }
        match shared {
            Some(shared) => self.member(&message.topic, shared).map(|held| view(message, [held])),
            None => Some(view(message, self.plain_matching(message, is_own(message, no)))),
        }
        .unwrap_or_default()
    }

    /// What those subscriptions make of a message without status that are to be shown it; `None` if none wants it.
    pub(super) fn view_of_shown(
        &self,
        message: &Message,
        no: Option<TerminalNo>,
        own: bool,
        matching: Matching,
    ) -> Option<View> {
        let own = own || is_own(message, no);
        match matching {
            Matching::Shared => {
                let mut members = self.held.iter().filter(|held| held.is_shared());
                members.find(|held| held.matches(&message.topic)).map(|held| view(message, [held]))
            }
            _ if !self.look_at_each => Some(View::default()),
            Matching::Any => {
                let mut wanted = self.plain_matching(message, own).peekable();
                wanted.peek()?;
                Some(view(message, wanted))
            }
            // It comes with its status where a replicated subscription matches too.
            Matching::BestEffort if self.plain_matching(message, own).any(|held| !held.best_effort) => None,
            Matching::BestEffort => {
                let mut wanted = self.plain_matching(message, own).peekable();
                wanted.peek()?;
                Some(view(message, wanted))
            }
        }
    }

    /// [MQTT-3.8.3-3]: No Local leaves out what this terminal published itself.
    fn plain_matching<'a>(
        &'a self,
        message: &'a Message,
        own: bool,
    ) -> impl Iterator<Item = &'a Held> + use<'a> {
        self.held
            .iter()
            .filter(|held| !held.is_shared() && held.matches(&message.topic))
            .filter(move |held| !own || !held.options.no_local)
    }

    /// The subscription a push comes from that was given to this member of a group. Deliveries name groups by number,
    /// which the session learns where only one of its shared subscriptions can be meant.
    fn member(&mut self, topic: &str, shared: Shared) -> Option<&Held> {
        let candidates = |held: &Held| held.is_shared() && held.matches(topic);
        let known = self.held.iter().position(|held| held.group == Some(shared.group) && candidates(held));
        if let Some(place) = known {
            return self.held.get(place);
        }
        if !self.held.iter().any(|held| candidates(held) && held.group.is_none()) {
            // Something learned was of a subscription that has been given up meanwhile.
            self.held.iter_mut().for_each(|held| held.group = None);
        }
        let mut places = (0..self.held.len())
            .filter(|place| candidates(&self.held[*place]) && self.held[*place].group.is_none());
        let first = places.next()?;
        let granted = |place: &usize| self.held[*place].qos == shared.granted;
        let rest: Vec<usize> = places.collect();
        if rest.is_empty() {
            self.held[first].group = Some(shared.group);
            return self.held.get(first);
        }
        let chosen = [first].into_iter().chain(rest).find(granted).unwrap_or(first);
        self.held.get(chosen)
    }
}

/// Whether this terminal published it.
pub(super) fn is_own(message: &Message, no: Option<TerminalNo>) -> bool {
    no.is_some() && message.publisher == no
}

fn view<'a>(message: &Message, from: impl IntoIterator<Item = &'a Held>) -> View {
    let mut identifiers = Vec::new();
    let mut retain = false;
    for held in from {
        identifiers.extend(held.options.identifier);
        retain |= held.options.retain_as_published;
    }
    View { identifiers: identifiers.into_boxed_slice(), retain: retain && message.retain }
}

#[cfg(test)]
mod tests {
    use cluster_proto::{AppId, MessageProperties};

    use super::*;

    fn message(topic: &str) -> Message {
        Message {
            app: AppId::DEFAULT,
            kind: PushKind::Topic,
            topic: topic.to_owned(),
            qos: Qos::ExactlyOnce,
            payload: Default::default(),
            properties: MessageProperties::default(),
            retain: true,
            publisher: None,
            tells_expiry: false,
        }
    }

    fn holding(filters: &[(&str, Qos, u32)]) -> Subscriptions {
        let mut subscriptions = Subscriptions::default();
        for (filter, qos, identifier) in filters {
            let options = SubscriptionOptions { identifier: Some(*identifier), ..Default::default() };
            subscriptions.hold::<()>(Held::new((*filter).to_owned(), *qos, options, false), &mut Vec::new());
        }
        subscriptions
    }

    fn identifiers(subscriptions: &mut Subscriptions, topic: &str, group: u32) -> Vec<u32> {
        let shared = Shared { group: TerminalNo(group), granted: Qos::AtLeastOnce };
        subscriptions.view_of_push(&message(topic), None, Some(shared)).identifiers.into()
    }

    #[test]
    fn the_highest_granted_qos_of_those_that_match_counts() {
        use Qos::{AtLeastOnce, AtMostOnce, ExactlyOnce};
        let subscriptions =
            holding(&[("a/#", AtLeastOnce, 1), ("a/+", ExactlyOnce, 2), ("b", AtMostOnce, 3)]);
        assert_eq!(subscriptions.effective_qos(&message("a/b"), None, false, None), ExactlyOnce);
        assert_eq!(subscriptions.effective_qos(&message("a/b/c"), None, false, None), AtLeastOnce);
        assert_eq!(subscriptions.effective_qos(&message("a/b"), None, true, None), AtMostOnce);
        assert_eq!(subscriptions.effective_qos(&message("gone"), None, false, None), AtLeastOnce);
    }

    #[test]
    fn groups_are_told_apart_once_a_topic_of_one_alone_was_delivered() {
        use Qos::AtLeastOnce;
        let mut subscriptions =
            holding(&[("$share/x/a/#", AtLeastOnce, 1), ("$share/y/a/+", AtLeastOnce, 2)]);
        assert_eq!(identifiers(&mut subscriptions, "a/b/c", 100), [1], "only the first can be meant");
        assert_eq!(identifiers(&mut subscriptions, "a/b", 101), [2], "and this is not the first");
        assert_eq!(identifiers(&mut subscriptions, "a/b", 100), [1]);
        assert_eq!(
            identifiers(&mut subscriptions, "a/b", 102),
            [1],
            "what was learned was wrong: begin again"
        );
    }
}
