//! What a session that was there before goes on with ([MQTT-4.4.0-1]).

use cluster_proto::{
    Qos,
    link::{Bound, Outbound, OutboundStage},
};

use super::Live;
use crate::mqtt::{
    action::{Action, MessageHandle, Queued},
    deliveries::{Origin, Waiting},
    held::Held,
    in_flight::{InFlight, Phase},
    packet::{Ack, Packet},
    reason::Reason,
};

impl<M: MessageHandle> Live<M> {
    pub(super) fn resume(&mut self, bound: Bound, outbound: Vec<Queued<M>>, out: &mut Vec<Action<M>>) {
        for subscription in bound.subscriptions {
            let (qos, options) = (subscription.qos, subscription.options);
            self.subscriptions.hold(Held::new(subscription.filter, qos, options, false), out);
        }
        self.inbound.resume(bound.inbound);
        for (begun, queued) in bound.outbound.into_iter().zip(outbound) {
            self.resume_one(begun, queued, out);
        }
    }

    fn resume_one(&mut self, begun: Outbound, queued: Queued<M>, out: &mut Vec<Action<M>>) {
        let Outbound { packet_id, push, target, stage, .. } = begun;
        let ends = stage == OutboundStage::Received;
        let qos = if stage == OutboundStage::Sent { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
        let phase = if ends { Phase::Released } else { Phase::Ready };
        let group = (Some(target) != self.no).then_some(target);
        let (resumed, withdrawn) = (true, false);
        self.deliveries.window.resume(InFlight { packet_id, push, group, qos, phase, resumed, withdrawn });
        if ends {
            out.push(pubrel(packet_id));
            return;
        }
        let queued = Queued { dup: true, ..queued };
        let waiting = Waiting { queued, qos, packet_id: Some(packet_id), origin: Origin::Resumed };
        self.deliveries.resume(waiting);
    }
}

pub(super) fn pubrel<M>(packet_id: u16) -> Action<M> {
    Action::Send(Packet::PubRel(Ack { packet_id, reason: Reason::SUCCESS }))
}
