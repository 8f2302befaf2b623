//! The proposer against a log that a test answers by hand.

use std::sync::{Mutex, PoisonError};

use cluster_proto::AppId;
use futures_util::FutureExt;

use super::*;
use crate::CommandBody;

/// One entry as the log saw it.
struct Submitted {
    names: Vec<String>,
    at_ms: u64,
    answer: oneshot::Sender<Outcome>,
}

struct ByHand {
    submitted: mpsc::UnboundedSender<Submitted>,
    clock: Arc<Mutex<u64>>,
}

impl Log for ByHand {
    async fn submit(&self, proposal: Proposal) -> BoxFuture<'static, Outcome> {
        let batch = proposal.decode().expect("decode");
        let names = batch.commands.into_iter().map(|command| name(&command)).collect();
        let (answer, outcome) = oneshot::channel();
        self.submitted.send(Submitted { names, at_ms: batch.at_ms, answer }).expect("test is gone");
        outcome.map(|outcome| outcome.unwrap_or(Err(Refused::Unknown))).boxed()
    }

    fn now_ms(&self) -> u64 {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct World {
    proposer: Proposer,
    log: mpsc::UnboundedReceiver<Submitted>,
    clock: Arc<Mutex<u64>>,
}

type Waiting = tokio::task::JoinHandle<Result<Vec<Applied>, ProposeError>>;

impl World {
    fn new() -> Self {
        let (submitted, log) = mpsc::unbounded_channel();
        let clock = Arc::new(Mutex::new(1_000));
        let (proposer, task) = Proposer::new(ByHand { submitted, clock: clock.clone() });
        tokio::spawn(task);
        Self { proposer, log, clock }
    }

    /// Queues commands before anything else runs.
    fn propose(&self, names: &[&str]) -> Waiting {
        let commands: Vec<_> = names.iter().map(|name| command(name)).collect();
        let proposer = self.proposer.clone();
        let mut call = Box::pin(async move { proposer.propose(&commands).await });
        // The first poll queues it, so that the order of calls is the order of commands.
        match (&mut call).now_or_never() {
            Some(done) => tokio::spawn(std::future::ready(done)),
            None => tokio::spawn(call),
        }
    }

    async fn next(&mut self) -> Submitted {
        tokio::time::timeout(Duration::from_secs(5), self.log.recv())
            .await
            .expect("a proposal in time")
            .expect("open")
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}

impl Submitted {
    fn apply(self) {
        let answers = self.names.iter().map(|name| Applied::App(AppId(number(name)))).collect();
        self.answer.send(Ok(answers)).expect("proposer is gone");
    }

    fn refuse(self, refused: Refused) {
        self.answer.send(Err(refused)).expect("proposer is gone");
    }
}

fn command(name: &str) -> Command {
    Command::own(CommandBody::CreateApp { name: name.to_owned(), quotas: Default::default() })
}

fn name(command: &Command) -> String {
    match &command.body {
        CommandBody::CreateApp { name, .. } => name.clone(),
        other => panic!("unexpected {other:?}"),
    }
}

fn number(name: &str) -> u32 {
    name.bytes().filter(u8::is_ascii_digit).fold(0, |n, digit| n * 10 + u32::from(digit - b'0'))
}

fn apps(numbers: &[u32]) -> Result<Vec<Applied>, ProposeError> {
    Ok(numbers.iter().map(|n| Applied::App(AppId(*n))).collect())
}

#[tokio::test]
async fn an_idle_proposer_proposes_at_once() {
    let mut world = World::new();
    let waiting = world.propose(&["1"]);
    world.next().await.apply();
    assert_eq!(waiting.await.expect("join"), apps(&[1]));
}

#[tokio::test]
async fn what_comes_while_two_entries_are_in_flight_shares_the_third() {
    let mut world = World::new();
    let first = world.propose(&["1"]);
    let entry = world.next().await;
    let second = world.propose(&["2"]);
    let entry2 = world.next().await;
    let rest: Vec<_> = (3..10).map(|n: u32| world.propose(&[&n.to_string()])).collect();
    World::settle().await;
    assert!(world.log.try_recv().is_err(), "a third entry was proposed with two in flight");
    entry.apply();
    let entry3 = world.next().await;
    assert_eq!(entry3.names, ["3", "4", "5", "6", "7", "8", "9"]);
    entry2.apply();
    entry3.apply();
    assert_eq!(first.await.expect("join"), apps(&[1]));
    assert_eq!(second.await.expect("join"), apps(&[2]));
    for (n, waiting) in (3..).zip(rest) {
        assert_eq!(waiting.await.expect("join"), apps(&[n]));
    }
}

#[tokio::test]
async fn a_batch_is_closed_before_it_exceeds_its_size() {
    let mut world = World::new();
    let big = "x".repeat(PROPOSAL_BATCH_LEN_MAX / 3);
    let calls: Vec<_> = (0..5).map(|_| world.propose(&[&big])).collect();
    let first = world.next().await;
    let second = world.next().await;
    assert_eq!((first.names.len(), second.names.len()), (2, 2));
    first.apply();
    second.apply();
    let third = world.next().await;
    assert_eq!(third.names.len(), 1);
    third.apply();
    for call in calls {
        assert!(call.await.expect("join").is_ok());
    }
}

#[tokio::test]
async fn the_commands_of_one_call_stay_together_and_get_their_own_answers() {
    let mut world = World::new();
    let first = world.propose(&["1", "2"]);
    let second = world.propose(&["3", "4", "5"]);
    let entry = world.next().await;
    assert_eq!(entry.names, ["1", "2", "3", "4", "5"]);
    entry.apply();
    assert_eq!(first.await.expect("join"), apps(&[1, 2]));
    assert_eq!(second.await.expect("join"), apps(&[3, 4, 5]));
}

#[tokio::test(start_paused = true)]
async fn an_entry_refused_for_the_moment_is_proposed_again_before_anything_newer() {
    let mut world = World::new();
    let first = world.propose(&["1"]);
    let entry = world.next().await;
    let second = world.propose(&["2"]);
    let entry2 = world.next().await;
    let third = world.propose(&["3"]);
    entry.refuse(Refused::Retry);
    entry2.refuse(Refused::Retry);
    for expected in ["1", "2", "3"] {
        let again = world.next().await;
        assert_eq!(again.names, [expected]);
        again.apply();
    }
    for (n, waiting) in [(1, first), (2, second), (3, third)] {
        assert_eq!(waiting.await.expect("join"), apps(&[n]));
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_refused_for_too_long_was_certainly_not_done() {
    let mut world = World::new();
    let waiting = world.propose(&["1"]);
    let refuser = async {
        while let Some(entry) = world.log.recv().await {
            entry.refuse(Refused::Retry);
        }
    };
    let result = tokio::select! { result = waiting => result.expect("join"), () = refuser => unreachable!() };
    assert_eq!(result, Err(ProposeError::NotLeader { leader: None }));
}

#[tokio::test]
async fn each_fate_of_an_entry_reaches_its_callers() {
    let fates = [
        (Refused::NotLeader(Some(NodeId(3))), ProposeError::NotLeader { leader: Some(NodeId(3)) }),
        (Refused::Unknown, ProposeError::Unknown),
        (Refused::Stopped, ProposeError::Stopped),
    ];
    let mut world = World::new();
    for (refused, error) in fates {
        let waiting = world.propose(&["1"]);
        world.next().await.refuse(refused);
        assert_eq!(waiting.await.expect("join"), Err(error));
    }
}

#[tokio::test]
async fn time_never_goes_back() {
    let mut world = World::new();
    let mut seen = Vec::new();
    for clock in [1_000, 900, 1_100] {
        *world.clock.lock().expect("lock") = clock;
        let waiting = world.propose(&["1"]);
        let entry = world.next().await;
        seen.push(entry.at_ms);
        entry.apply();
        waiting.await.expect("join").expect("applied");
    }
    assert_eq!(seen, [1_000, 1_000, 1_100]);
}

#[tokio::test]
async fn a_full_queue_refuses_and_recovers() {
    let mut world = World::new();
    let big = "x".repeat(1024 * 1024);
    let calls: Vec<_> = (0..100).map(|_| world.propose(&[&big])).collect();
    let answerer = async {
        while let Some(entry) = world.log.recv().await {
            entry.apply();
        }
    };
    let collect = async {
        let mut full = 0;
        for call in calls {
            match call.await.expect("join") {
                Ok(_) => {}
                Err(ProposeError::Full) => full += 1,
                Err(other) => panic!("{other}"),
            }
        }
        full
    };
    let full = tokio::select! { full = collect => full, () = answerer => unreachable!() };
    assert!((30..40).contains(&full), "{full} of 100 were refused");
    let again = world.propose(&["1"]);
    world.next().await.apply();
    assert_eq!(again.await.expect("join"), apps(&[1]));
}

#[tokio::test]
async fn a_call_larger_than_a_frame_is_refused_without_a_trace() {
    let mut world = World::new();
    let huge = "x".repeat(PROPOSAL_LEN_MAX);
    assert_eq!(world.propose(&[&huge]).await.expect("join"), Err(ProposeError::Full));
    World::settle().await;
    assert!(world.log.try_recv().is_err());
}

#[tokio::test]
async fn a_caller_that_gave_up_in_the_queue_is_not_proposed() {
    let mut world = World::new();
    let first = world.propose(&["1"]);
    let entry = world.next().await;
    let second = world.propose(&["2"]);
    let entry2 = world.next().await;
    let third = world.propose(&["3"]);
    let fourth = world.propose(&["4"]);
    third.abort();
    assert!(third.await.expect_err("aborted").is_cancelled());
    entry.apply();
    assert_eq!(world.next().await.names, ["4"]);
    drop((entry2, first, second, fourth));
}
