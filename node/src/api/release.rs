//! When, and in which parts, a push is handed out: what a request may ask, and what a status says.

use cluster_proto::{
    Qos, admin,
    admin::release::Pace as Asked,
    limits::{SCHEDULE_AHEAD_MAX, STAGES_MAX},
};
use jiff::{Timestamp, Zoned};
use raft_store::{
    command::{OnLow, Pace, ReleasePlan, Stage},
    tables::{ReleasePhase, ReleaseRecord},
};
use tonic::Status;

use super::validate::invalid;

/// The whole, in hundredths of a percent.
const WHOLE: u32 = 10_000;
/// A pace is kept from second to second.
const OVER_MS_MIN: u64 = 1_000;

/// The plan of a request.
pub(super) fn plan(asked: admin::Release, qos: Qos, now_ms: u64) -> Result<ReleasePlan, Status> {
    let ahead_max_ms = SCHEDULE_AHEAD_MAX.as_millis() as u64;
    let not_before_ms = if asked.at.is_empty() { 0 } else { time(&asked.at)? };
    if not_before_ms > now_ms.saturating_add(ahead_max_ms) {
        return Err(invalid(format!("release.at: {} is more than 366 days ahead", asked.at)));
    }
    let pace = match asked.pace {
        None => Pace::AtOnce,
        Some(Asked::PerSecond(0)) => return Err(invalid("release.per_second is 0: it must be at least 1")),
        Some(Asked::PerSecond(per_second)) => Pace::PerSecond(per_second),
        Some(Asked::OverMs(over_ms)) => over(over_ms, ahead_max_ms)?,
        Some(Asked::Stages(stages)) => self::stages(stages, qos, ahead_max_ms)?,
    };
    Ok(ReleasePlan { not_before_ms, pace })
}

/// Milliseconds since the epoch; before it: 0.
fn time(at: &str) -> Result<u64, Status> {
    let time = match at.parse::<Zoned>() {
        Ok(zoned) => zoned.timestamp(),
        Err(_) => at.parse::<Timestamp>().map_err(|_| {
            invalid(format!(
                "release.at: {at:?} is no time: write 2026-12-24T18:00:00+01:00, or with the zone \
                 2026-12-24T18:00:00[Europe/Madrid]"
            ))
        })?,
    };
    Ok(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

fn over(over_ms: u64, max_ms: u64) -> Result<Pace, Status> {
    if !(OVER_MS_MIN..=max_ms).contains(&over_ms) {
        return Err(invalid(format!("release.over_ms is {over_ms}: it must be {OVER_MS_MIN} to {max_ms}")));
    }
    Ok(Pace::Over(over_ms))
}

fn stages(asked: admin::Stages, qos: Qos, wait_max_ms: u64) -> Result<Pace, Status> {
    let on_low = match asked.on_low() {
        admin::OnLow::Hold => OnLow::Hold,
        admin::OnLow::Halt => OnLow::Halt,
    };
    if asked.stages.is_empty() || asked.stages.len() > STAGES_MAX {
        return Err(invalid(format!(
            "release.stages has {}: it must be 1 to {STAGES_MAX}",
            asked.stages.len()
        )));
    }
    let (mut stages, mut before) = (Vec::with_capacity(asked.stages.len()), 0);
    for (at, stage) in asked.stages.iter().enumerate() {
        let refused = |what: String| invalid(format!("release.stages[{at}]: {what}"));
        if stage.upto <= before || stage.upto > WHOLE {
            return Err(refused(format!(
                "upto is {}: shares ascend, in hundredths of a percent, up to {WHOLE}",
                stage.upto
            )));
        }
        if stage.delivered_min > WHOLE {
            return Err(refused(format!("delivered_min is {}: the most is {WHOLE}", stage.delivered_min)));
        }
        if stage.delivered_min > 0 && qos == Qos::AtMostOnce {
            return Err(refused("delivered_min needs qos 1 or 2: nobody acknowledges QoS 0".to_owned()));
        }
        if stage.wait_ms > wait_max_ms {
            return Err(refused(format!("wait_ms is {}: the most is {wait_max_ms}", stage.wait_ms)));
        }
        before = stage.upto;
        stages.push(Stage {
            upto: stage.upto as u16,
            wait_ms: stage.wait_ms,
            delivered_min: stage.delivered_min as u16,
        });
    }
    if before != WHOLE {
        return Err(invalid(format!("release.stages: the last is everyone (upto {WHOLE}), not {before}")));
    }
    Ok(Pace::Stages { stages, on_low })
}

/// How far a push is released.
pub(super) fn status(release: &ReleaseRecord) -> admin::ReleaseStatus {
    use admin::ReleasePhase as Phase;
    let (phase, share) = match release.phase {
        ReleasePhase::Waiting => (Phase::WaitingForTime, 0),
        ReleasePhase::Held => (Phase::Held, 0),
        ReleasePhase::HeldLow(share) => (Phase::HeldLow, share),
        ReleasePhase::Halted(share) => (Phase::Halted, share),
        ReleasePhase::Done => (Phase::Released, 0),
    };
    admin::ReleaseStatus {
        phase: phase as i32,
        released: release.released,
        next_at_ms: if phase == Phase::WaitingForTime { release.due_ms } else { 0 },
        share: share.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Result<ReleasePlan, Status> {
        plan(admin::Release { at: text.to_owned(), pace: None }, Qos::AtLeastOnce, 1_790_000_000_000)
    }

    #[test]
    fn a_time_has_an_offset_or_a_zone() {
        // Madrid is one hour ahead of UTC in winter, two in summer.
        for (text, utc) in [
            ("2026-12-24T18:00:00+01:00", "2026-12-24T17:00:00Z"),
            ("2026-12-24T18:00:00[Europe/Madrid]", "2026-12-24T17:00:00Z"),
            ("2026-10-24T18:00[Europe/Madrid]", "2026-10-24T16:00:00Z"),
        ] {
            let expected = utc.parse::<Timestamp>().expect("time").as_millisecond();
            assert_eq!(at(text).expect("valid").not_before_ms as i64, expected, "{text}");
        }
        for wrong in ["tomorrow", "2026-12-24T18:00:00", "2026-12-24T18:00:00[Europe/Nowhere]", "1"] {
            assert!(at(wrong).expect_err("refused").message().starts_with("release.at: "), "{wrong}");
        }
        assert!(at("2036-12-24T18:00:00Z").expect_err("refused").message().contains("366 days"));
    }

    fn staged(stages: &[(u32, u64, u32)], qos: Qos) -> Result<ReleasePlan, Status> {
        let stage = |(upto, wait_ms, delivered_min): &(u32, u64, u32)| admin::Stage {
            upto: *upto,
            wait_ms: *wait_ms,
            delivered_min: *delivered_min,
        };
        let stages = admin::Stages { stages: stages.iter().map(stage).collect(), on_low: 0 };
        plan(admin::Release { at: String::new(), pace: Some(Asked::Stages(stages)) }, qos, 0)
    }

    #[test]
    fn what_is_wrong_with_stages_is_named() {
        assert!(staged(&[(500, 1_000, 9_000), (10_000, 0, 0)], Qos::AtLeastOnce).is_ok());
        let refused =
            |stages: &[(u32, u64, u32)], qos| staged(stages, qos).expect_err("refused").message().to_owned();
        assert!(refused(&[], Qos::AtLeastOnce).contains("1 to 32"));
        assert!(refused(&[(500, 0, 0)], Qos::AtLeastOnce).contains("the last is everyone"));
        assert!(
            refused(&[(500, 0, 0), (500, 0, 0)], Qos::AtLeastOnce).starts_with("release.stages[1]: upto")
        );
        assert!(refused(&[(10_001, 0, 0)], Qos::AtLeastOnce).starts_with("release.stages[0]: upto"));
        assert!(refused(&[(10_000, 0, 10_001)], Qos::AtLeastOnce).contains("delivered_min is 10001"));
        assert!(refused(&[(500, 0, 1), (10_000, 0, 0)], Qos::AtMostOnce).contains("QoS 0"));
        assert!(refused(&[(500, u64::MAX, 1), (10_000, 0, 0)], Qos::AtLeastOnce).contains("wait_ms"));
    }

    #[test]
    fn a_pace_is_neither_nothing_nor_everything() {
        let pace = |pace| plan(admin::Release { at: String::new(), pace: Some(pace) }, Qos::AtMostOnce, 0);
        assert!(pace(Asked::PerSecond(0)).is_err() && pace(Asked::OverMs(999)).is_err());
        assert_eq!(pace(Asked::PerSecond(7)).expect("valid").pace, Pace::PerSecond(7));
        assert_eq!(pace(Asked::OverMs(60_000)).expect("valid").pace, Pace::Over(60_000));
    }
}
