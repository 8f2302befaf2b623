//! Retained messages that new subscriptions are to get, asked for page by page.

use std::collections::VecDeque;

use cluster_proto::Qos;

use super::action::{Action, RequestNo};

/// What one subscription is still to get.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// Plain.
    pub(super) filter: Box<str>,
    /// Granted.
    pub(super) qos: Qos,
    pub(super) identifier: Option<u32>,
    pub(super) no_local: bool,
    /// See [`cluster_proto::link::RetainedAsk::upto`].
    pub(super) upto: u64,
    /// The last topic that came.
    pub(super) after: Option<String>,
}

/// One ask is under way at a time, and the next page is asked for when all of the last one is written: a terminal that
/// does not read holds one page. Bounded by the subscriptions of the session.
#[derive(Clone, Debug, Default)]
pub(super) struct Asks {
    asks: VecDeque<Ask>,
    /// Under way.
    request: Option<Request>,
    /// Refused, for want of a leader: until there is one again.
    parked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    no: RequestNo,
    /// It is not for the first ask, but for one that was given up meanwhile: its answer is awaited, and nothing else.
    given_up: bool,
}

impl Asks {
    /// Begins for a subscription, or again for one that was asked for before.
    pub(super) fn add(&mut self, ask: Ask) {
        self.remove(&ask.filter);
        self.asks.push_back(ask);
    }

    /// The subscription was given up.
    pub(super) fn remove(&mut self, filter: &str) {
        let Some(at) = self.asks.iter().position(|ask| *ask.filter == *filter) else { return };
        self.asks.remove(at);
        if at == 0
            && let Some(request) = &mut self.request
        {
            request.given_up = true;
        }
    }

    /// Nothing to ask for, and no answer to come.
    pub(super) fn is_empty(&self) -> bool {
        self.asks.is_empty() && self.request.is_none()
    }

    /// The next page to ask for, if none is under way.
    pub(super) fn next<M>(&mut self, number: impl FnOnce() -> RequestNo) -> Option<Action<M>> {
        if self.request.is_some() || self.parked {
            return None;
        }
        let Ask { filter, upto, after, .. } = self.asks.front()?;
        let request = number();
        self.request = Some(Request { no: request, given_up: false });
        Some(Action::Retained { request, filter: filter.clone(), upto: *upto, after: after.clone() })
    }

    /// The ask a page answers, which goes on behind `next`.
    pub(super) fn answered(&mut self, request: RequestNo, next: Option<String>) -> Option<Ask> {
        if !self.ends(request) {
            return None;
        }
        match next {
            None => self.asks.pop_front(),
            Some(_) => {
                let ask = self.asks.front_mut()?;
                ask.after = next;
                Some(ask.clone())
            }
        }
    }

    /// Not now: asked again when there is a leader.
    pub(super) fn park(&mut self, request: RequestNo) {
        if self.ends(request) {
            self.parked = true;
        }
    }

    /// Never: nothing comes for this subscription.
    pub(super) fn refused(&mut self, request: RequestNo) {
        if self.ends(request) {
            self.asks.pop_front();
        }
    }

    /// Whether `request`, which is answered, was for the first ask.
    fn ends(&mut self, request: RequestNo) -> bool {
        self.request.take_if(|under_way| under_way.no == request).is_some_and(|ended| !ended.given_up)
    }

    /// There is a leader again, who knows of no request.
    pub(super) fn restart(&mut self) {
        self.request = None;
        self.parked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(filter: &str) -> Ask {
        Ask {
            filter: filter.into(),
            qos: Qos::AtMostOnce,
            identifier: None,
            no_local: false,
            upto: 1,
            after: None,
        }
    }

    fn next(asks: &mut Asks, request: u32) -> Option<(String, Option<String>)> {
        match asks.next::<()>(|| RequestNo(request)) {
            Some(Action::Retained { filter, after, .. }) => Some((filter.into(), after)),
            _ => None,
        }
    }

    #[test]
    fn one_page_is_under_way_at_a_time_and_the_next_goes_on_behind_it() {
        let mut asks = Asks::default();
        asks.add(ask("a/#"));
        asks.add(ask("b"));
        assert_eq!(next(&mut asks, 1), Some(("a/#".to_owned(), None)));
        assert_eq!(next(&mut asks, 2), None);
        assert!(asks.answered(RequestNo(1), Some("a/3".to_owned())).is_some());
        assert_eq!(next(&mut asks, 2), Some(("a/#".to_owned(), Some("a/3".to_owned()))));
        assert!(asks.answered(RequestNo(2), None).is_some());
        assert_eq!(next(&mut asks, 3), Some(("b".to_owned(), None)));
    }

    #[test]
    fn an_answer_for_a_subscription_that_is_gone_is_nothing() {
        let mut asks = Asks::default();
        asks.add(ask("a"));
        next(&mut asks, 1);
        asks.remove("a");
        assert!(asks.answered(RequestNo(1), None).is_none() && asks.is_empty());
    }

    /// Found by fuzzing: who subscribed and unsubscribed in turn had any number of requests with the leader.
    #[test]
    fn what_was_given_up_is_answered_before_the_next_is_asked_for() {
        let mut asks = Asks::default();
        asks.add(ask("a"));
        next(&mut asks, 1);
        asks.add(ask("a"));
        assert_eq!(next(&mut asks, 2), None);
        assert!(asks.answered(RequestNo(1), Some("a".to_owned())).is_none());
        assert_eq!(next(&mut asks, 2), Some(("a".to_owned(), None)));
    }

    #[test]
    fn without_a_leader_an_ask_waits_for_one() {
        let mut asks = Asks::default();
        asks.add(ask("a"));
        next(&mut asks, 1);
        asks.park(RequestNo(1));
        assert_eq!(next(&mut asks, 2), None);
        asks.restart();
        assert_eq!(next(&mut asks, 3), Some(("a".to_owned(), None)));
    }
}
