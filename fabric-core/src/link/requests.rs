//! Session requests that wait for an answer.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{
    Epoch,
    link::{Bind, SessionRequest, SessionRequestBody, Subscribe, Unbind, Unsubscribe, WillFate},
};

/// Requests kept until answered and sent again, in the order first asked, on a new link. Subscribe and Unsubscribe
/// are numbered in lane Session besides. Pulls and Retained are not kept: on a new link sessions ask again.
#[derive(Clone, Debug)]
pub struct Requests {
    kept: BTreeMap<u64, SessionRequestBody>,
    /// Retained, sent on this link: their answers are to be heard.
    heard: BTreeSet<u64>,
    /// Binds sent on this link and then given up: whoever hears the answer ends the binding.
    given_up: BTreeSet<u64>,
    /// Requests up to here were sent, on this link or an earlier one.
    sent_upto: u64,
    next_request: u64,
    next_seq: u64,
    kept_max: usize,
}

impl Requests {
    /// Keeps at most `kept_max` binds and subscription changes; then it refuses more.
    pub fn new(kept_max: usize) -> Self {
        Self {
            kept: BTreeMap::new(),
            heard: BTreeSet::new(),
            given_up: BTreeSet::new(),
            sent_upto: 0,
            next_request: 1,
            next_seq: 1,
            kept_max,
        }
    }

    /// Takes a request and numbers it; `None` when full. An Unbind is always taken: there is at most one for each
    /// connection that was bound.
    pub fn push(&mut self, mut body: SessionRequestBody) -> Option<SessionRequest> {
        let kept = is_kept(&body);
        let always = !kept || matches!(body, SessionRequestBody::Unbind(_));
        if !always && self.kept.len() >= self.kept_max {
            return None;
        }
        if let Some(seq) = seq_mut(&mut body) {
            *seq = self.next_seq;
            self.next_seq += 1;
        }
        let request = self.next_request;
        self.next_request += 1;
        if kept {
            self.kept.insert(request, body.clone());
        } else if let SessionRequestBody::Retained(_) = body {
            self.heard.insert(request);
        }
        Some(SessionRequest { request, body })
    }

    /// Answered, or given up: whether it was waiting.
    pub fn answer(&mut self, request: u64) -> bool {
        self.given_up.remove(&request);
        self.kept.remove(&request).is_some() || self.heard.remove(&request)
    }

    /// All that is kept is being sent.
    pub fn sent(&mut self) {
        self.sent_upto = self.next_request - 1;
    }

    /// Gives up a Bind whose connection is gone; says whether its answer may come on this link, if there is one. Numbered
    /// requests cannot be given up: that would leave a gap.
    pub fn give_up_bind(&mut self, request: u64, is_live: bool) -> bool {
        if request > self.sent_upto {
            self.kept.remove(&request);
        } else if is_live {
            return self.kept.contains_key(&request) && self.given_up.insert(request);
        } else {
            self.end_instead(request);
        }
        false
    }

    /// A new link: only what is kept is answered on it.
    pub fn rewind(&mut self) {
        self.heard.clear();
        for request in std::mem::take(&mut self.given_up) {
            self.end_instead(request);
        }
    }

    /// A Bind that was sent and given up is not sent again: it would take the terminal from a connection it may have
    /// elsewhere by now. But the session may be with its connection: so its end is told, which is void in every other case.
    fn end_instead(&mut self, request: u64) {
        if let Some(body) = self.kept.get_mut(&request)
            && let SessionRequestBody::Bind(bind) = body
        {
            *body = SessionRequestBody::Unbind(end_of(bind));
        }
    }

    /// Lane Session is applied up to `seq`: the requests this answers, in order.
    pub fn answer_upto(&mut self, seq: u64) -> Vec<u64> {
        let covered = |body: &SessionRequestBody| matches!(seq_of(body), Some(s) if s <= seq);
        let requests: Vec<u64> =
            self.kept.iter().filter(|(_, body)| covered(body)).map(|(request, _)| *request).collect();
        for request in &requests {
            self.kept.remove(request);
        }
        requests
    }

    /// Everything unanswered, in the order asked.
    pub fn unanswered(&self) -> impl Iterator<Item = SessionRequest> + '_ {
        self.kept.iter().map(|(request, body)| SessionRequest { request: *request, body: body.clone() })
    }

    /// Whether everything is answered.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.kept.len()
    }
}

/// The end of a connection whose binding was never heard of: it has no epoch, and no will that was accepted
/// ([MQTT-3.1.2-7]).
fn end_of(bind: &Bind) -> Unbind {
    Unbind {
        app: bind.app,
        terminal: bind.terminal.clone(),
        epoch: Epoch::default(),
        connection: bind.connection,
        session_expiry_s: bind.session_expiry_s,
        will: WillFate::Discard,
        unacknowledged: Vec::new(),
    }
}

/// Whether it is sent again on a new link.
pub(super) fn is_kept(body: &SessionRequestBody) -> bool {
    !matches!(body, SessionRequestBody::Pull { .. } | SessionRequestBody::Retained(_))
}

fn seq_of(body: &SessionRequestBody) -> Option<u64> {
    match body {
        SessionRequestBody::Subscribe(Subscribe { seq, .. })
        | SessionRequestBody::Unsubscribe(Unsubscribe { seq, .. }) => Some(*seq),
        _ => None,
    }
}

fn seq_mut(body: &mut SessionRequestBody) -> Option<&mut u64> {
    match body {
        SessionRequestBody::Subscribe(Subscribe { seq, .. })
        | SessionRequestBody::Unsubscribe(Unsubscribe { seq, .. }) => Some(seq),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cluster_proto::{AppId, TerminalId, TerminalNo, link::RetainedAsk};

    use super::*;

    fn subscribe() -> SessionRequestBody {
        SessionRequestBody::Subscribe(Subscribe {
            seq: 0,
            app: AppId::DEFAULT,
            terminal: TerminalId::new("tv").expect("id"),
            epoch: Epoch::default(),
            connection: 1,
            subscriptions: Vec::new(),
        })
    }

    fn unbind() -> SessionRequestBody {
        SessionRequestBody::Unbind(Unbind {
            app: AppId::DEFAULT,
            terminal: TerminalId::new("tv").expect("id"),
            epoch: Epoch::default(),
            connection: 1,
            session_expiry_s: 0,
            unacknowledged: Vec::new(),
            will: WillFate::Publish,
        })
    }

    #[test]
    fn only_subscription_changes_are_numbered_in_the_lane() {
        let mut requests = Requests::new(10);
        requests.push(unbind());
        let second = requests.push(subscribe()).expect("room");
        let third = requests.push(subscribe()).expect("room");
        assert_eq!((second.request, seq_of(&second.body)), (2, Some(1)));
        assert_eq!((third.request, seq_of(&third.body)), (3, Some(2)));
        assert_eq!(requests.answer_upto(1), [2]);
        assert_eq!(requests.unanswered().map(|r| r.request).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn a_full_table_still_takes_unbinds_and_does_not_use_up_numbers() {
        let mut requests = Requests::new(1);
        assert!(requests.push(subscribe()).is_some());
        assert!(requests.push(subscribe()).is_none());
        assert!(requests.push(unbind()).is_some());
        requests.answer(1);
        requests.answer(2);
        assert_eq!(requests.push(subscribe()).and_then(|r| seq_of(&r.body)), Some(2));
    }

    #[test]
    fn retained_messages_are_asked_for_once_and_answered_on_the_same_link_only() {
        let mut requests = Requests::new(1);
        requests.push(subscribe());
        let ask = || {
            SessionRequestBody::Retained(RetainedAsk {
                app: AppId::DEFAULT,
                filter: "#".to_owned(),
                upto: 1,
                after: None,
            })
        };
        let first = requests.push(ask()).expect("not counted").request;
        let second = requests.push(ask()).expect("not counted").request;
        assert!(requests.answer(first) && !requests.answer(first));
        requests.rewind();
        assert!(!requests.answer(second));
        assert_eq!(requests.unanswered().count(), 1);
    }

    #[test]
    fn pulls_are_not_kept() {
        let mut requests = Requests::new(1);
        let pull = SessionRequestBody::Pull {
            no: TerminalNo(1),
            epoch: Epoch::default(),
            after: cluster_proto::link::After::default(),
            max: 1,
        };
        assert!(requests.push(pull).is_some());
        assert!(requests.is_empty());
    }
}
