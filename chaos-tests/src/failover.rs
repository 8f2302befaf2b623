//! How long pushes wait when the leader is killed: from SIGKILL to the next push that is answered as accepted.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use cluster_proto::admin::{Audience, PushRequest, TerminalList, audience::Of};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{api::Api, cluster::Cluster, evidence::Terminal};

/// Per attempt: a call that was on its way through the dead leader is not waited for longer.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(500);
const GIVE_UP: Duration = Duration::from_secs(30);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(2);
/// Pushes before each trial, so that the cluster is at work and not just elected.
const WARM_UP: u64 = 50;

/// Runs the trials; returns how long each took, in order.
pub async fn run(dir: &Path, trials: u32, mut tell: impl FnMut(String)) -> Result<Vec<Duration>> {
    let mut cluster = Cluster::start(dir, 3, 0).await?;
    let api = Arc::new(Api::new(&cluster)?);
    api.credentials(&[Terminal(0)]).await?;
    let mut all = Vec::new();
    for trial in 0..trials {
        for n in 0..WARM_UP {
            api.push(request(format!("warm-{trial}-{n}"))).await?;
        }
        let leader = api.leader().await?;
        let started = Instant::now();
        cluster.node(leader).kill().await?;
        until_accepted(&api, leader, trial).await?;
        let took = started.elapsed();
        tell(format!(
            "trial {}: node {leader} killed, next push accepted after {} ms",
            trial + 1,
            took.as_millis()
        ));
        all.push(took);
        cluster.heal()?;
        cluster.wait_ready().await?;
    }
    cluster.stop().await?;
    Ok(all)
}

/// Median and longest.
pub fn summary(all: &[Duration]) -> Option<(Duration, Duration)> {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    Some((*sorted.get(sorted.len() / 2)?, *sorted.last()?))
}

/// A back-end at each survivor, both trying: the first acceptance counts.
async fn until_accepted(api: &Arc<Api>, dead: u64, trial: u32) -> Result<()> {
    let mut back_ends = JoinSet::new();
    for place in (0..3_usize).filter(|place| *place as u64 + 1 != dead) {
        let api = api.clone();
        back_ends.spawn(async move { keep_trying(&api, place, trial).await });
    }
    let first = timeout(GIVE_UP, back_ends.join_next()).await;
    first.context("no push was accepted")?.context("no survivor")??
}

async fn keep_trying(api: &Api, place: usize, trial: u32) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < GIVE_UP {
        let key = format!("after-{trial}-{place}");
        if let Ok(Ok(_)) = timeout(ATTEMPT_LIMIT, api.push_at(place, request(key))).await {
            return Ok(());
        }
        sleep(BETWEEN_ATTEMPTS).await;
    }
    bail!("the back-end at place {place} found nobody to accept its push")
}

fn request(idempotency_key: String) -> PushRequest {
    let audience = Of::Terminals(TerminalList { ids: vec![Terminal(0).to_string()] });
    PushRequest {
        audience: Some(Audience { of: Some(audience) }),
        topic: "news/0".into(),
        payload: b"failover".to_vec(),
        qos: 1,
        idempotency_key,
        ..PushRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_median_and_longest() {
        let ms = |n| Duration::from_millis(n);
        assert_eq!(summary(&[ms(30), ms(10), ms(20)]), Some((ms(20), ms(30))));
        assert_eq!(summary(&[]), None);
    }
}
