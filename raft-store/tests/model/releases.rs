//! Pushes that are released in parts.

use std::collections::BTreeSet;

use cluster_proto::{AppId, PushId, Sample, State, TerminalNo};
use raft_store::{
    Applied, Refusal,
    command::{OnLow, Pace, ReleasePlan},
    tables::ReleasePhase,
};

use crate::{Model, pushes::Push};

/// How far a push is released.
#[derive(Debug)]
pub(crate) struct Release {
    plan: ReleasePlan,
    pub(crate) phase: ReleasePhase,
    pub(crate) due_ms: u64,
    next: u32,
    pub(crate) released: u64,
}

/// A part that was released.
#[derive(Debug)]
pub(crate) struct Wave {
    pub(crate) push: PushId,
    pub(crate) part: BTreeSet<u32>,
}

impl Release {
    pub(crate) fn of(plan: Option<&ReleasePlan>, now_ms: u64) -> Option<Self> {
        let plan = plan.filter(|plan| plan.pace != Pace::AtOnce || plan.not_before_ms > now_ms)?.clone();
        let due_ms = plan.not_before_ms.max(now_ms);
        Some(Self { plan, phase: ReleasePhase::Waiting, due_ms, next: 0, released: 0 })
    }

    pub(crate) fn stop(&mut self) {
        if !matches!(self.phase, ReleasePhase::Halted(_)) {
            self.phase = ReleasePhase::Done;
        }
    }
}

impl Model {
    /// The push of an id: its own, or that of one of its waves.
    pub(crate) fn whole(&self, id: PushId) -> PushId {
        self.pushes.waves.get(&id).map_or(id, |wave| wave.push)
    }

    /// The id under which a terminal is owed a push, and whether that is handed out.
    pub(crate) fn owed_as(&self, id: PushId, push: &Push, no: u32) -> (PushId, bool) {
        let mut waves = self.pushes.waves.iter().filter(|(_, wave)| wave.push == id);
        match waves.find(|(_, wave)| wave.part.contains(&no)) {
            Some((wave, _)) => (*wave, true),
            None => (id, push.release.is_none()),
        }
    }

    pub(crate) fn release_pushes(&mut self, limit: u32) -> Applied {
        let waiting = self.pushes.kept.iter().filter_map(|(id, push)| Some((*id, push.release.as_ref()?)));
        let mut due: Vec<_> = waiting
            .filter(|(_, release)| release.phase == ReleasePhase::Waiting && release.due_ms <= self.at_ms)
            .map(|(id, release)| (release.due_ms, id))
            .collect();
        due.sort_unstable();
        for (_, id) in due.into_iter().take(limit as usize) {
            self.advance(id, false);
        }
        Applied::Done
    }

    pub(crate) fn hold(&mut self, app: AppId, push: PushId) -> Applied {
        self.change(app, push, |release| {
            if release.phase == ReleasePhase::Waiting {
                release.phase = ReleasePhase::Held;
            }
            false
        })
    }

    pub(crate) fn resume(&mut self, app: AppId, push: PushId) -> Applied {
        let now_ms = self.at_ms;
        self.change(app, push, |release| {
            if !matches!(release.phase, ReleasePhase::Held | ReleasePhase::HeldLow(_)) {
                return false;
            }
            let is_early = now_ms < release.plan.not_before_ms;
            if is_early {
                (release.phase, release.due_ms) = (ReleasePhase::Waiting, release.plan.not_before_ms);
            }
            !is_early
        })
    }

    fn change(&mut self, app: AppId, id: PushId, how: impl FnOnce(&mut Release) -> bool) -> Applied {
        let push = self.whole(id);
        let release = self.pushes.kept.get_mut(&push).and_then(|push| push.release.as_mut());
        let Some(release) = release.filter(|_| app == AppId::DEFAULT) else {
            return Applied::Refused(Refusal::NoRelease(id));
        };
        if how(release) {
            self.advance(push, true);
        }
        Applied::Done
    }

    fn advance(&mut self, id: PushId, anyway: bool) {
        let now_ms = self.at_ms;
        let push = &self.pushes.kept[&id];
        let Release { plan, due_ms, next, released, .. } = push.release.as_ref().unwrap();
        let (plan, due_ms, next, released) = (plan.clone(), *due_ms, *next, *released);
        let len = push.states.len() as u64;
        let is_pending = |no: &&u32| push.states[*no] == State::Pending;
        let later: Vec<u32> =
            push.states.keys().filter(|no| **no >= next).filter(is_pending).copied().collect();
        let delivered = push.states.values().filter(|state| **state == State::Delivered).count() as u64;
        let all: BTreeSet<u32> = push.states.keys().copied().collect();
        let paced = |size: u64, interval_ms: u64| {
            let part = &later[..later.len().min(size as usize)];
            let last = part.last().copied();
            let numbers = last.map(|last| all.range(next..=last).copied().collect()).unwrap_or_default();
            let planned_ms = due_ms + interval_ms;
            let due_ms = if planned_ms < now_ms { now_ms + interval_ms } else { planned_ms };
            let more = (part.len() < later.len()).then(|| (last.unwrap() + 1, due_ms));
            (numbers, more)
        };
        let (part, more): (BTreeSet<u32>, _) = match &plan.pace {
            Pace::AtOnce => (all, None),
            Pace::PerSecond(n) => {
                let size = u64::from(*n).max(1);
                paced(size, size * 1_000 / u64::from(*n))
            }
            Pace::Over(ms) => {
                let waves = (ms / 1_000).max(1);
                paced(len.div_ceil(waves).max(1), ms / waves)
            }
            Pace::Stages { stages, on_low } => {
                let before = (next as usize).checked_sub(1).map(|before| stages[before]);
                if let Some(before) = before.filter(|_| !anyway && released > 0) {
                    let share = (delivered * 10_000 / released).min(10_000) as u16;
                    if share < before.delivered_min {
                        self.seen.low += 1;
                        let release = self.pushes.kept.get_mut(&id).unwrap().release.as_mut().unwrap();
                        release.phase = match on_low {
                            OnLow::Hold => ReleasePhase::HeldLow(share),
                            OnLow::Halt => ReleasePhase::Halted(share),
                        };
                        return;
                    }
                }
                let stage = stages[next as usize];
                let from = before.map_or(0, |before| before.upto);
                let is_in = |no: &u32| (from..stage.upto).contains(&Sample::bucket(TerminalNo(*no)));
                let more = (next as usize + 1 < stages.len()).then(|| (next + 1, now_ms + stage.wait_ms));
                (all.into_iter().filter(is_in).collect(), more)
            }
        };
        let push = self.pushes.kept.get_mut(&id).unwrap();
        let pending = part.iter().filter(|no| push.states[*no] == State::Pending).count();
        let release = push.release.as_mut().unwrap();
        release.released += pending as u64;
        match more {
            Some((next, due_ms)) => {
                (release.phase, release.next, release.due_ms) = (ReleasePhase::Waiting, next, due_ms);
            }
            None => release.phase = ReleasePhase::Done,
        }
        if pending > 0 {
            self.seen.waves += 1;
            self.pushes.last += 1;
            self.pushes.waves.insert(PushId(self.pushes.last), Wave { push: id, part });
            if self.pushes.kept[&id].collapse_key.is_some() {
                self.pushes.marked.insert(id);
            }
        }
    }
}
