//! The same registry where every terminal has a session with one exact subscription of its own, and is away.

use cluster_proto::{
    Incarnation, NodeId, Qos, TerminalId,
    link::{Subscription, SubscriptionOptions, WillFate},
};
use raft_store::{
    Command, CommandBody,
    command::{Holder, OpenSession},
};

use crate::{
    Result,
    clock::{Cost, resident},
    log::{APP, Log},
    registry::id,
    report::{Report, mebi},
};

const PER_ENTRY: u32 = 2_000;
const EXPIRY_S: u32 = 7 * 24 * 3_600;
const EDGE: NodeId = NodeId(98);

pub(crate) fn measure(log: &mut Log, terminals: u32, report: &mut Report) -> Result<()> {
    report
        .section("One private exact subscription for every terminal", "a session each, subscribed, detached");
    let incarnation = Incarnation(1);
    log.apply(vec![Command::own(CommandBody::EdgeStarted { edge: EDGE, incarnation })])?;
    let mut cost = Cost::default();
    let mut first = 1;
    while first <= terminals {
        let last = terminals.min(first + PER_ENTRY - 1);
        let mut commands = Vec::new();
        for no in first..=last {
            commands.extend(subscribed(no)?);
        }
        cost.add(log.apply(commands)?.cost);
        first = last + 1;
    }
    log.apply(vec![Command::own(CommandBody::EdgeEnded { edge: EDGE, incarnation })])?;
    log.flush()?;
    let each = 1e6 / cost.per_second(terminals.into());
    report.line(
        "opening, subscribing, detaching: CPU of apply for each terminal",
        format!("{each:.1} µs"),
        "",
    );
    report.line("sessions and filters on disk", mebi(log.on_disk(&["sessions"])?), "reported");
    report.line("memory of this process", mebi(resident(std::process::id()).0), "");
    Ok(())
}

fn subscribed(no: u32) -> Result<[Command; 3]> {
    let holder = Holder {
        app: APP,
        terminal: TerminalId::new(id(no))?,
        edge: EDGE,
        incarnation: Incarnation(1),
        connection: no.into(),
    };
    let open = OpenSession {
        holder: holder.clone(),
        clean_start: false,
        expiry_s: EXPIRY_S,
        will: None,
        unacknowledged: Vec::new(),
    };
    let subscription = Subscription {
        filter: format!("terminals/{}/inbox", id(no)),
        qos: Qos::AtLeastOnce,
        options: SubscriptionOptions::default(),
    };
    let subscribe = CommandBody::Subscribe { holder: holder.clone(), subscriptions: vec![subscription] };
    let detach = CommandBody::DetachSession {
        holder,
        expiry_s: EXPIRY_S,
        will: WillFate::Discard,
        unacknowledged: Vec::new(),
    };
    Ok([Command::own(CommandBody::OpenSession(open)), Command::own(subscribe), Command::own(detach)])
}
