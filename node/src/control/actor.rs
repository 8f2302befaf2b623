//! The task that owns the leader while this node is one, and carries out what it decides.
//!
//! One task, one owner: presence and dispatch need no locks, and the order of events is the order of decisions.
//! The leader is made when leadership is gained and dropped when it is lost; links are closed then, and edges find the
//! new leader.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cluster_proto::{
    NodeId,
    limits::PROPOSAL_BATCH_LEN_MAX,
    link::{EdgeControl, Hello},
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use raft_store::{Applied, Command, CommandBody, ControlGroup, Effect, Leadership, ProposeError};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

use crate::auth::Keyring;

use super::{
    leader::{Action, Event, Leader, LinkId, Now, Question, Settings, TICK_MS, Token},
    link_server::LinkSender,
};

/// Events waiting for the leader. When full, link readers wait: edges feel it as back-pressure on their lanes.
const EVENTS_MAX: usize = 16 * 1024;
/// Questions of the API waiting for the leader; when full, callers wait.
const QUESTIONS_MAX: usize = 1_024;
/// Events handled between two looks at everything else.
const EVENTS_PER_TURN: usize = 256;
/// How often leadership is confirmed by a quorum, so that heartbeats may be answered.
const CONFIRM_EVERY: Duration = Duration::from_millis(500);

/// What links tell the actor.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// An edge said Hello on a new connection.
    Opened(LinkId, LinkSender, Hello),
    /// Anything else it says.
    Said(Event),
}

/// Where links and the API reach the actor.
#[derive(Clone, Debug)]
pub(crate) struct ActorHandle {
    pub(crate) links: mpsc::Sender<LinkEvent>,
    pub(crate) questions: mpsc::Sender<Question>,
}

type Proposals = FuturesUnordered<Pin<Box<dyn Future<Output = Answers> + Send>>>;
type Answers = Vec<(Token, Result<Applied, ProposeError>)>;

pub(crate) struct Actor {
    me: NodeId,
    group: ControlGroup,
    settings: Settings,
    effects: mpsc::Receiver<Effect>,
    links: mpsc::Receiver<LinkEvent>,
    questions: mpsc::Receiver<Question>,
    leadership: watch::Receiver<Leadership>,
    /// Verifies the API's callers; follows the tables on every member.
    keyring: Keyring,
    leading: Option<Leading>,
    started: Instant,
}

/// What exists only while this node leads.
struct Leading {
    term: u64,
    leader: Leader,
    links: BTreeMap<LinkId, LinkSender>,
    proposals: Proposals,
    confirmations: FuturesUnordered<Pin<Box<dyn Future<Output = Option<u64>> + Send>>>,
}

impl Actor {
    pub(crate) fn new(
        me: NodeId,
        group: ControlGroup,
        effects: mpsc::Receiver<Effect>,
        settings: Settings,
        keyring: Keyring,
    ) -> (Self, ActorHandle) {
        let (links_tx, links) = mpsc::channel(EVENTS_MAX);
        let (questions_tx, questions) = mpsc::channel(QUESTIONS_MAX);
        let leadership = group.leadership();
        let actor = Self {
            me,
            group,
            settings,
            effects,
            links,
            questions,
            leadership,
            keyring,
            leading: None,
            started: Instant::now(),
        };
        (actor, ActorHandle { links: links_tx, questions: questions_tx })
    }

    /// Runs until every handle is gone.
    pub(crate) async fn run(mut self) {
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        let mut confirm = tokio::time::interval(CONFIRM_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        confirm.set_missed_tick_behavior(MissedTickBehavior::Skip);
        self.follow_leadership();
        self.follow_keys();
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        loop {
            tokio::select! {
                changed = self.leadership.changed() => match changed {
                    Ok(()) => self.follow_leadership(),
                    Err(_) => return,
                },
                n = self.links.recv_many(&mut events, EVENTS_PER_TURN) => {
                    if n == 0 {
                        return;
                    }
                    events.drain(..).for_each(|event| self.link_event(event));
                }
                Some(effect) = self.effects.recv() => self.effect(effect),
                Some(question) = self.questions.recv() => self.ask(question),
                completed = next_completed(&mut self.leading) => match completed {
                    Completed::Proposals(answers) => self.answered(answers),
                    Completed::Confirmation(Some(at_ms)) => self.handle(Event::Confirmed(at_ms)),
                    Completed::Confirmation(None) => {}
                },
                _ = tick.tick() => {
                    // A snapshot may have brought keys without a hint.
                    self.follow_keys();
                    if self.group.take_credentials_unknown() {
                        self.handle(Event::CredentialsUnknown);
                    }
                    self.handle(Event::Rescan);
                    self.handle(Event::Tick);
                }
                _ = confirm.tick() => self.confirm(),
            }
            self.carry_out();
        }
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.started.elapsed().as_millis() as u64, wall_ms: wall.as_millis() as u64 }
    }

    fn ask(&mut self, question: Question) {
        match question {
            // Certainly not done; a question that is dropped later may be.
            Question::Cancel(_, _, reply) if self.leading.is_none() => {
                // A caller that left needs no answer.
                let _ = reply.send(Err(ProposeError::NotLeader { leader: None }));
            }
            question => self.handle(Event::Ask(question)),
        }
    }

    fn follow_leadership(&mut self) {
        let Leadership { term, is_leader, .. } = *self.leadership.borrow_and_update();
        if self.leading.as_ref().is_some_and(|l| is_leader && l.term == term) {
            return;
        }
        if let Some(old) = self.leading.take() {
            tracing::info!(term = old.term, "no longer leader: links are closed");
        }
        if is_leader {
            tracing::info!(term, "leader: waiting for edges to resume");
            let leader = Leader::new(self.me, term, self.group.tables(), self.settings.clone(), self.now());
            self.leading = Some(Leading {
                term,
                leader,
                links: BTreeMap::new(),
                proposals: Proposals::new(),
                confirmations: FuturesUnordered::new(),
            });
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Said(event) => self.handle(event),
            LinkEvent::Opened(link, sender, hello) => {
                // Dropping the sender closes the connection; the edge tries elsewhere.
                let Some(leading) = &mut self.leading else { return };
                leading.links.insert(link, sender);
                self.handle(Event::Control(link, EdgeControl::Hello(hello)));
            }
        }
    }

    fn effect(&mut self, effect: Effect) {
        let event = match effect {
            Effect::Accepted(push) => Event::Accepted(push),
            Effect::Cancelled(push) => Event::Cancelled(push),
            Effect::Revoked { app, terminal, issued_until } => Event::Revoked { app, terminal, issued_until },
            Effect::KeysChanged => {
                self.follow_keys();
                Event::KeysChanged
            }
            // Edges learn new apps with their next Welcome; credentials carry the app's number.
            Effect::AppsChanged => Event::AppsChanged,
            Effect::Deleted { app, terminals, .. } => Event::Deleted(app, terminals),
        };
        self.handle(event);
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        if let Some(leading) = &mut self.leading {
            if matches!(event, Event::Tick) {
                leading.leader.set_disk_full(self.group.disk_full());
            }
            if let Event::LinkClosed(link) = event {
                leading.links.remove(&link);
            }
            leading.leader.handle(now, event);
        }
    }

    fn answered(&mut self, answers: Answers) {
        for (token, result) in answers {
            self.handle(Event::Applied(token, result));
        }
    }

    fn follow_keys(&self) {
        self.keyring.replace(self.group.tables().public_keys());
    }

    /// A quorum confirms that this node led at this time.
    fn confirm(&mut self) {
        let at_ms = self.now().mono_ms;
        let Some(leading) = &mut self.leading else { return };
        if leading.confirmations.is_empty() {
            let group = self.group.clone();
            leading.confirmations.push(Box::pin(async move { group.linearize().await.ok().map(|_| at_ms) }));
        }
    }

    /// Carries out what the leader decided, in order; proposals are entered before anything else happens.
    fn carry_out(&mut self) {
        let Some(leading) = &mut self.leading else { return };
        let mut batch = Batch::default();
        for action in leading.leader.take_actions() {
            let Action::Propose(token, command) = action else {
                leading.send(action);
                continue;
            };
            if batch.is_full() {
                leading.propose(&self.group, std::mem::take(&mut batch));
            }
            batch.add(token, *command);
        }
        leading.propose(&self.group, batch);
    }
}

/// Commands for one call of the proposer, which takes a bounded number of bytes.
#[derive(Default)]
struct Batch {
    tokens: Vec<Token>,
    commands: Vec<Command>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, token: Token, command: Command) {
        self.bytes += size(&command);
        self.tokens.push(token);
        self.commands.push(command);
    }

    fn is_full(&self) -> bool {
        self.bytes >= PROPOSAL_BATCH_LEN_MAX
    }
}

/// About how long a command is: what carries payloads or sets is counted, the rest is small.
fn size(command: &Command) -> usize {
    match &command.body {
        CommandBody::AcceptPush(accept) => accept.message.size(),
        CommandBody::Retain { message, .. } => message.size(),
        CommandBody::OpenSession(open) => 256 + open.will.as_ref().map_or(0, |will| will.message.size()),
        CommandBody::RecordReceipts { items, steps } => {
            let sets: usize = items.iter().map(|item| item.terminals.0.serialized_size()).sum();
            sets + steps.len() * 32
        }
        CommandBody::RecordSeen { terminals, .. } => terminals.0.serialized_size(),
        CommandBody::CancelPush { in_flight, .. } => 256 + in_flight.0.serialized_size(),
        CommandBody::Collapse { pushes, .. } => {
            pushes.iter().map(|(_, set)| 64 + set.0.serialized_size()).sum()
        }
        CommandBody::ExpirePushes { pushes } => pushes.iter().map(|(_, set)| set.0.serialized_size()).sum(),
        CommandBody::RecordAppReceipts(receipts) => receipts.size(),
        _ => 256,
    }
}

impl Leading {
    /// Enters the commands into the proposer's queue now, so that the order of calls is the order in the log.
    fn propose(&mut self, group: &ControlGroup, batch: Batch) {
        if batch.commands.is_empty() {
            return;
        }
        let group = group.clone();
        let mut answers = Box::pin(async move {
            match group.propose_all(batch.commands).await {
                Ok(results) => batch.tokens.into_iter().zip(results.into_iter().map(Ok)).collect(),
                Err(error) => {
                    batch.tokens.into_iter().map(|token| (token, Err(error.clone()))).collect::<Answers>()
                }
            }
        });
        // The first poll queues it.
        match answers.as_mut().now_or_never() {
            Some(done) => self.proposals.push(Box::pin(async move { done })),
            None => self.proposals.push(answers),
        }
    }

    fn send(&mut self, action: Action) {
        let (link, sent) = match action {
            Action::Control(link, frame) => (link, self.with(link, |l| l.control.try_send(frame).is_ok())),
            Action::Session(link, frame) => (link, self.with(link, |l| l.session.try_send(frame).is_ok())),
            Action::Published(link, frame) => {
                (link, self.with(link, |l| l.published.try_send(frame).is_ok()))
            }
            Action::Committed(link, frame) => {
                (link, self.with(link, |l| l.committed.try_send(frame).is_ok()))
            }
            Action::Deliver(link, frame) => (link, self.with(link, |l| l.deliver.try_send(frame).is_ok())),
            Action::Transient(link, frame) => {
                // QoS 0: what does not fit is dropped and counted.
                if !self.with(link, |l| l.transient.try_send(frame).is_ok()) {
                    metrics::counter!("carillon_link_transient_dropped_total").increment(1);
                }
                return;
            }
            Action::Close(link) => (link, false),
            Action::Propose(..) => return,
        };
        if !sent {
            // A full queue is an edge that cannot keep up: it resumes, and gets what it lacks from the tables. The
            // reader of the connection reports that it closed.
            if let Some(sender) = self.links.remove(&link) {
                sender.close();
            }
        }
    }

    /// True also for a link that is gone already: there is nothing to close.
    fn with(&self, link: LinkId, send: impl FnOnce(&LinkSender) -> bool) -> bool {
        self.links.get(&link).is_none_or(send)
    }
}

/// Something the leader waits for.
enum Completed {
    Proposals(Answers),
    Confirmation(Option<u64>),
}

async fn next_completed(leading: &mut Option<Leading>) -> Completed {
    let Some(leading) = leading else { return std::future::pending().await };
    tokio::select! {
        Some(answers) = leading.proposals.next() => Completed::Proposals(answers),
        Some(confirmed) = leading.confirmations.next() => Completed::Confirmation(confirmed),
        else => std::future::pending().await,
    }
}
