//! Retained messages for new subscriptions (section 3.3.1.3).

use cluster_proto::link::RefuseReason;

use super::{Live, Session};
use crate::mqtt::{
    action::{Action, Kept, MessageHandle, Moment, Queued, RequestNo},
    deliveries::{Origin, Waiting},
    held::{Held, is_own},
    retained::Ask,
};

/// Retained messages that were kept up to here; later ones come live.
pub(super) const UPTO_NOW: u64 = u64::MAX;

/// A page: messages, and where the next one begins.
type Page<M> = (Vec<Kept<M>>, Option<String>);

impl<M: MessageHandle> Session<M> {
    /// The answer to [`Action::Retained`]: messages, and the topic behind which there may be more.
    pub fn handle_retained(
        &mut self,
        at: Moment,
        request: RequestNo,
        result: Result<Page<M>, RefuseReason>,
        out: &mut Vec<Action<M>>,
    ) {
        let Some((cx, live)) = self.live_mut() else { return };
        let Some(asks) = &mut live.asks else { return };
        match result {
            Ok((messages, next)) => {
                if let Some(ask) = asks.answered(request, next) {
                    live.queue_retained(&ask, messages);
                }
            }
            Err(RefuseReason::Unavailable | RefuseReason::Stale) => asks.park(request),
            Err(RefuseReason::NotAuthorized | RefuseReason::Quota) => asks.refused(request),
        }
        live.flush(cx, at, out);
    }
}

impl<M: MessageHandle> Live<M> {
    /// A subscription came into effect: whether it is to get retained messages is its Retain Handling's to say
    /// ([MQTT-3.3.1-9] to [MQTT-3.3.1-11]); a shared one gets none.
    pub(super) fn want_retained(&mut self, held: &Held, existed: bool, upto: u64) {
        let wanted = match held.options.retain_handling {
            0 => true,
            1 => !existed,
            _ => false,
        };
        if !wanted || held.is_shared() {
            return;
        }
        let (qos, no_local) = (held.qos, held.options.no_local);
        let (filter, identifier) = (held.filter.clone(), held.options.identifier);
        let ask = Ask { filter, qos, identifier, no_local, upto, after: None };
        self.asks.get_or_insert_default().add(ask);
    }

    pub(super) fn forget_retained(&mut self, filter: &str) {
        if let Some(asks) = &mut self.asks {
            asks.remove(filter);
        }
    }

    /// Asks for the next page when all of the last one is written: what a terminal does not read does not pile up here.
    pub(super) fn ask_retained(&mut self, out: &mut Vec<Action<M>>) {
        let Some(asks) = &mut self.asks else { return };
        if asks.is_empty() {
            self.asks = None;
        } else if self.deliveries.has_no_retained() {
            let requests = &mut self.requests;
            out.extend(asks.next(|| requests.next()));
        }
    }

    fn queue_retained(&mut self, ask: &Ask, messages: Vec<Kept<M>>) {
        for Kept { id, message, expires_at_ms } in messages {
            let kept = message.message();
            if ask.no_local && is_own(kept, self.no) {
                continue;
            }
            let qos = kept.qos.min(ask.qos);
            let origin = Origin::Retained(ask.identifier);
            let queued = Queued {
                push: id,
                message: Some(message),
                qos0: false,
                dup: false,
                expires_at_ms,
                shared: None,
                urgent: false,
            };
            self.deliveries.enqueue(Waiting { queued, qos, packet_id: None, origin });
        }
    }
}
