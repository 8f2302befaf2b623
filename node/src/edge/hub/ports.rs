//! The hub's queues towards the shards.

use tokio::sync::mpsc;

use crate::edge::messages::ToShard;

/// Messages gathered for a shard whose inbox is full, before the hub stops taking deliveries from the leader, and drops
/// QoS 0 messages. Answers and orders are bounded by the connections they are for.
const GATHERED_MAX: usize = 8 * 1024;

/// One queue per shard. The hub never waits for a shard: what its inbox does not take is gathered here, and the
/// deliver stream waits (QUIC flow control) until there is room again.
#[derive(Debug)]
pub(crate) struct Ports {
    ports: Vec<Port>,
}

#[derive(Debug)]
struct Port {
    inbox: mpsc::Sender<Vec<ToShard>>,
    gathered: Vec<ToShard>,
}

impl Ports {
    pub(crate) fn new(inboxes: Vec<mpsc::Sender<Vec<ToShard>>>) -> Self {
        Self { ports: inboxes.into_iter().map(|inbox| Port { inbox, gathered: Vec::new() }).collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.ports.len()
    }

    pub(crate) fn push(&mut self, shard: u16, message: ToShard) {
        self.ports[usize::from(shard)].gathered.push(message);
    }

    /// For QoS 0 messages: where so much waits already, nothing is added, and the answer is `false`.
    pub(crate) fn push_if_room(&mut self, shard: u16, message: ToShard) -> bool {
        let gathered = &mut self.ports[usize::from(shard)].gathered;
        let has_room = gathered.len() < GATHERED_MAX;
        if has_room {
            gathered.push(message);
        }
        has_room
    }

    pub(crate) fn push_all(&mut self, message: impl Fn() -> ToShard) {
        self.ports.iter_mut().for_each(|port| port.gathered.push(message()));
    }

    /// Whether deliveries may be taken from the leader.
    pub(crate) fn have_room(&self) -> bool {
        self.ports.iter().all(|port| port.gathered.len() < GATHERED_MAX)
    }

    /// Hands each shard all that was gathered for it, in one message.
    pub(crate) fn flush(&mut self) {
        for port in &mut self.ports {
            if port.gathered.is_empty() {
                continue;
            }
            match port.inbox.try_reserve() {
                Ok(permit) => permit.send(std::mem::take(&mut port.gathered)),
                Err(mpsc::error::TrySendError::Full(())) => {}
                // The shard has ended: the edge is going down.
                Err(mpsc::error::TrySendError::Closed(())) => port.gathered.clear(),
            }
        }
    }

    /// Waits until a shard with gathered messages takes them; for ever if there is none.
    pub(crate) async fn room(&self) {
        match self.ports.iter().find(|port| !port.gathered.is_empty()) {
            // An error is a shard that ended: `flush` deals with it.
            Some(port) => drop(port.inbox.reserve().await),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qos_0_messages_for_a_shard_that_takes_nothing_are_bounded_and_orders_are_not_lost() {
        let (inbox, _taken) = mpsc::channel(1);
        let mut ports = Ports::new(vec![inbox]);
        ports.push(0, ToShard::LinkLost);
        ports.flush(); // the inbox is full from here on
        let taken = (0..2 * GATHERED_MAX).filter(|_| ports.push_if_room(0, ToShard::LinkLost)).count();
        assert_eq!(taken, GATHERED_MAX);
        ports.flush();
        assert!(!ports.have_room() && !ports.push_if_room(0, ToShard::LinkLost));
        ports.push(0, ToShard::Stop);
        assert!(matches!(ports.ports[0].gathered[..], [.., ToShard::Stop]));
    }
}
