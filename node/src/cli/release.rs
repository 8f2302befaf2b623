//! How a release is typed and shown.

use cluster_proto::admin;
use serde::Serialize;

use super::{args::ReleaseArgs, output::time};
use crate::config::parse_duration;

/// One of `5%/10m/90%,25%/1h/95%,100%`: a share, how long after it is looked, and how many must have it then.
pub(super) fn stage(text: &str) -> Result<admin::Stage, String> {
    let mut parts = text.split('/');
    let upto = share(parts.next().unwrap_or_default())?;
    let wait_ms = match parts.next() {
        Some(wait) => u64::try_from(parse_duration(wait)?.as_millis()).unwrap_or(u64::MAX),
        None => 0,
    };
    let delivered_min = parts.next().map_or(Ok(0), share)?;
    match parts.next() {
        Some(_) => Err("a stage is SHARE[/WAIT[/SHARE]], as 5%/10m/90%".to_owned()),
        None => Ok(admin::Stage { upto, wait_ms, delivered_min }),
    }
}

/// `12.5%` in hundredths of a percent.
fn share(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no share: write 5% or 12.25%");
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    let (whole, rest) = number.split_once('.').unwrap_or((number, ""));
    let hundredths = |rest: &str| format!("{rest:0<2}").parse::<u32>();
    match (whole.parse::<u32>(), rest.len() <= 2, hundredths(rest)) {
        (Ok(whole), true, Ok(rest)) if whole <= 100 => Ok(whole * 100 + rest),
        _ => Err(wrong()),
    }
}

/// What the options ask; `None`: at once, to everyone.
pub(super) fn asked(args: ReleaseArgs) -> Option<admin::Release> {
    use admin::release::Pace;
    let ReleaseArgs { at, per_second, over, stages, halt } = args;
    let on_low = if halt { admin::OnLow::Halt } else { admin::OnLow::Hold };
    let pace = match (per_second, over) {
        (Some(per_second), _) => Some(Pace::PerSecond(per_second)),
        (None, Some(over)) => Some(Pace::OverMs(u64::try_from(over.as_millis()).unwrap_or(u64::MAX))),
        (None, None) if stages.is_empty() => None,
        (None, None) => Some(Pace::Stages(admin::Stages { stages, on_low: on_low as i32 })),
    };
    let release = admin::Release { at: at.unwrap_or_default(), pace };
    (release != admin::Release::default()).then_some(release)
}

/// How far a push is released.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Released {
    phase: String,
    released: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<u32>,
}

impl From<admin::ReleaseStatus> for Released {
    fn from(status: admin::ReleaseStatus) -> Self {
        use admin::ReleasePhase as Phase;
        let phase = status.phase();
        Self {
            phase: phase.as_str_name().to_ascii_lowercase().replace('_', "-"),
            released: status.released,
            next_at_ms: (phase == Phase::WaitingForTime).then_some(status.next_at_ms),
            share: matches!(phase, Phase::HeldLow | Phase::Halted).then_some(status.share),
        }
    }
}

impl Released {
    pub(super) fn text(&self) -> String {
        let mut text = format!("released to {}, {}", self.released, self.phase);
        if let Some(next) = self.next_at_ms {
            text += &format!(", next at {}", time(next));
        }
        if let Some(share) = self.share {
            text += &format!(", {}.{:02} % had acknowledged", share / 100, share % 100);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read() {
        let read = |text| stage(text).map(|s| (s.upto, s.wait_ms, s.delivered_min));
        assert_eq!(read("5%/10m/90%"), Ok((500, 600_000, 9_000)));
        assert_eq!(read("12.5%/1s"), Ok((1_250, 1_000, 0)));
        assert_eq!(read("100%"), Ok((10_000, 0, 0)));
        for wrong in ["5", "5%/x", "5%/1m/90", "5%/1m/90%/1", "101%", "1.234%", "-1%", ""] {
            assert!(stage(wrong).is_err(), "{wrong}");
        }
    }
}
