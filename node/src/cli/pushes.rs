//! `carillon push`, `status`, `cancel`.

mod batch;

use std::{io::Read as _, time::Duration};

use cluster_proto::{Audience, admin, limits::PAYLOAD_LEN_MAX};
use fabric_core::audience::Text;
use serde::Serialize;
use serde_json::json;

use super::{
    Failure,
    args::{CancelArgs, ExplainArgs, HoldArgs, PushArgs, StatusArgs, TargetState},
    client::{self, Client, Repeat, refused},
    files,
    output::{Out, table, time},
    release::{self, Released},
};

/// How many terminals a dry run names.
const SAMPLE: u32 = 10;

pub(super) async fn push(args: PushArgs, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    if let Some(path) = &args.batch {
        return batch::push(path, client, out).await;
    }
    if args.dry_run {
        return dry_run(args, client, out).await;
    }
    let request = admin::PushRequest {
        app: client.app.clone(),
        payload: payload(&args)?,
        properties: Some(properties(&args)),
        audience: args.to.as_ref().map(audience),
        priority: priority(args.urgent),
        collapse_key: args.collapse_key.unwrap_or_default(),
        topic: args.topic.unwrap_or_default(),
        qos: args.qos,
        ttl_ms: ttl_ms(args.ttl),
        release: release::asked(args.release),
        idempotency_key: args.idempotency_key.unwrap_or_else(random_key),
        text: String::new(),
    };
    let key = request.idempotency_key.clone();
    let answer = client.call(Repeat::Same, request, |channel, request| async move {
        client::pushes(channel).push(request).await
    });
    let answer = answer.await.map_err(|failure| match failure {
        Failure::Unknown(why) => Failure::Unknown(format!(
            "{why}\nThe push exists once or not at all. To learn which, repeat the command with --idempotency-key {key}"
        )),
        other => other,
    })?;
    let json = Pushed { push: answer.push, audience: answer.audience, repeated: answer.repeated };
    out.result(&json, || {
        let known = if answer.repeated { " (it was accepted before)" } else { "" };
        let (s, push) = (if answer.audience == 1 { "" } else { "s" }, answer.push);
        format!("push {push} is accepted for {} terminal{s}{known}", answer.audience)
    })
}

async fn dry_run(args: PushArgs, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let audience = args.to.as_ref().map(audience);
    let topic = args.topic.unwrap_or_default();
    let request = admin::DryRunRequest { app: client.app.clone(), audience, topic, sample: SAMPLE };
    let answer = client.call(Repeat::Read, request, |channel, request| async move {
        client::pushes(channel).dry_run(request).await
    });
    let admin::DryRunResponse { audience, sample } = answer.await?;
    out.result(&json!({ "audience": audience, "sample": sample }), || {
        let s = if audience == 1 { "" } else { "s" };
        let named: String = sample.iter().map(|id| format!("\n  {id}")).collect();
        let more = if audience > sample.len() as u64 { "\n  …" } else { "" };
        format!("nothing is pushed; it would be for {audience} terminal{s}{named}{more}")
    })
}

fn ttl_ms(ttl: Option<Duration>) -> u64 {
    ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

fn priority(urgent: bool) -> i32 {
    let priority = if urgent { admin::Priority::Urgent } else { admin::Priority::Normal };
    priority as i32
}

fn audience(to: &Audience) -> admin::Audience {
    admin::Audience { of: Some(admin::audience::Of::Expression(Text(to).to_string())) }
}

#[derive(Serialize)]
struct Pushed {
    push: u64,
    audience: u64,
    repeated: bool,
}

fn payload(args: &PushArgs) -> Result<Vec<u8>, Failure> {
    match (&args.payload, &args.payload_file) {
        (Some(text), _) => Ok(text.clone().into_bytes()),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            // One more than allowed, so that the server can say what is wrong.
            std::io::stdin().lock().take(PAYLOAD_LEN_MAX as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        }
        (None, Some(path)) => Ok(files::read(path)?),
        (None, None) => Ok(Vec::new()),
    }
}

fn properties(args: &PushArgs) -> admin::Properties {
    let user = args.user_properties.iter();
    admin::Properties {
        content_type: args.content_type.clone(),
        response_topic: args.response_topic.clone(),
        user_properties: user
            .map(|(name, value)| admin::UserProperty { name: name.clone(), value: value.clone() })
            .collect(),
        ..Default::default()
    }
}

fn random_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

pub(super) async fn status(args: StatusArgs, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let app = client.app.clone();
    if let Some(state) = args.terminals {
        return terminals(args.push, state, client, out).await;
    }
    let request = admin::StatusRequest { push: args.push, app };
    if args.watch {
        return watch(request, client, out).await;
    }
    let answer = client.call(Repeat::Read, request, |channel, request| async move {
        client::pushes(channel).status(request).await
    });
    show(answer.await?, out)
}

pub(super) async fn explain(args: ExplainArgs, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = admin::ExplainRequest { push: args.push, app: client.app.clone(), terminal: args.terminal };
    let answer = client.call(Repeat::Read, request, |channel, request| async move {
        client::pushes(channel).explain(request).await
    });
    let answer = answer.await?;
    let state = match answer.state() {
        admin::TargetState::Unspecified => None,
        state => Some(state.as_str_name().to_ascii_lowercase()),
    };
    let explained = Explained {
        push: answer.push,
        state,
        explanation: answer.explanation().as_str_name().to_ascii_lowercase().replace('_', "-"),
        words: answer.words,
        edge: Some(answer.edge).filter(|edge| *edge != 0),
        offline_since_ms: Some(answer.offline_since_ms).filter(|since| *since != 0),
        owed_before: answer.owed_before,
        displayed: answer.displayed,
        opened: answer.opened,
        expires_at_ms: answer.expires_at_ms,
        terminal: answer.terminal,
    };
    let text = explained.text();
    out.result(&explained, || text)
}

#[derive(Debug, Serialize)]
struct Explained {
    push: u64,
    terminal: String,
    /// Not in the audience: none.
    state: Option<String>,
    explanation: String,
    words: String,
    edge: Option<u64>,
    offline_since_ms: Option<u64>,
    owed_before: u64,
    displayed: bool,
    opened: bool,
    expires_at_ms: u64,
}

impl Explained {
    fn text(&self) -> String {
        let state = self.state.as_deref().unwrap_or("not in the audience");
        let mut text = format!("push {}, terminal {}: {state}\n{}", self.push, self.terminal, self.words);
        if let Some(since) = self.offline_since_ms {
            text += &format!("\nnot connected since {}", time(since));
        }
        if self.state.as_deref() == Some("pending") {
            text += &format!("\ndeliverable until {}", time(self.expires_at_ms));
        }
        text
    }
}

pub(super) async fn cancel(args: CancelArgs, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = admin::CancelRequest { push: args.push, app: client.app.clone() };
    let answer = client.call(Repeat::Same, request, |channel, request| async move {
        client::pushes(channel).cancel(request).await
    });
    let answer = answer.await?;
    if args.wait {
        return watch(admin::StatusRequest { push: args.push, app: client.app.clone() }, client, out).await;
    }
    show(answer, out)
}

pub(super) async fn hold(args: HoldArgs, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = admin::HoldRequest { push: args.push, app: client.app.clone() };
    let answer = client.call(Repeat::Same, request, |channel, request| async move {
        client::pushes(channel).hold(request).await
    });
    show(answer.await?, out)
}

/// Made once: each time it may let another stage follow.
pub(super) async fn resume(args: HoldArgs, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = admin::HoldRequest { push: args.push, app: client.app.clone() };
    let answer = client.call(Repeat::Never, request, |channel, request| async move {
        client::pushes(channel).resume(request).await
    });
    show(answer.await?, out)
}

/// One line per change. A watch that breaks (the leader changed) is taken up again at another node.
async fn watch(request: admin::StatusRequest, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let mut last = None;
    loop {
        let stream = client.call(Repeat::Read, request.clone(), |channel, request| async move {
            client::pushes(channel).watch(request).await
        });
        let mut stream = stream.await?;
        while let Ok(Some(now)) = stream.message().await {
            let status = Counted::from(now);
            if last.as_ref() != Some(&status) {
                let line = status.line();
                out.result(&status, || line)?;
            }
            let settled = status.pending == 0;
            last = Some(status);
            if settled {
                return Ok(());
            }
        }
    }
}

async fn terminals(push: u64, state: TargetState, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = admin::ListTargetsRequest { push, app: client.app.clone(), state: to_proto(state) as i32 };
    let stream = client.call(Repeat::Read, request, |channel, request| async move {
        client::pushes(channel).list_targets(request).await
    });
    let mut stream = stream.await?;
    let mut all = Vec::new();
    while let Some(page) = stream.message().await.map_err(|status| refused(&status))? {
        if out.is_json() {
            all.extend(page.ids);
        } else {
            out.text(&page.ids.join("\n"));
        }
    }
    if out.is_json() { out.json(&json!({ "push": push, "terminals": all })) } else { Ok(()) }
}

fn to_proto(state: TargetState) -> admin::TargetState {
    match state {
        TargetState::Pending => admin::TargetState::Pending,
        TargetState::Delivered => admin::TargetState::Delivered,
        TargetState::Sent => admin::TargetState::Sent,
        TargetState::Expired => admin::TargetState::Expired,
        TargetState::Cancelled => admin::TargetState::Cancelled,
        TargetState::Collapsed => admin::TargetState::Collapsed,
        TargetState::Dropped => admin::TargetState::Dropped,
        TargetState::Displayed => admin::TargetState::Displayed,
        TargetState::Opened => admin::TargetState::Opened,
    }
}

fn show(answer: admin::StatusResponse, out: &mut Out) -> Result<(), Failure> {
    let status = Counted::from(answer);
    let text = status.table();
    out.result(&status, || text)
}

/// One number per state of the conservation law.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Counted {
    push: u64,
    topic: String,
    audience: u64,
    pending: u64,
    delivered: u64,
    sent: u64,
    expired: u64,
    cancelled: u64,
    collapsed: u64,
    dropped: u64,
    dropped_by_reason: std::collections::BTreeMap<String, u64>,
    /// What applications reported, beside the states.
    displayed: u64,
    opened: u64,
    accepted_at_ms: u64,
    expires_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<Released>,
}

impl From<admin::StatusResponse> for Counted {
    fn from(answer: admin::StatusResponse) -> Self {
        Self {
            push: answer.push,
            topic: answer.topic,
            audience: answer.audience,
            pending: answer.pending,
            delivered: answer.delivered,
            sent: answer.sent,
            expired: answer.expired,
            cancelled: answer.cancelled,
            collapsed: answer.collapsed,
            dropped: answer.dropped,
            dropped_by_reason: answer.dropped_by_reason.into_iter().collect(),
            displayed: answer.displayed,
            opened: answer.opened,
            accepted_at_ms: answer.accepted_at_ms,
            expires_at_ms: answer.expires_at_ms,
            release: answer.release.map(Released::from),
        }
    }
}

impl Counted {
    fn states(&self) -> [(&'static str, u64); 7] {
        [
            ("pending", self.pending),
            ("delivered", self.delivered),
            ("sent", self.sent),
            ("expired", self.expired),
            ("cancelled", self.cancelled),
            ("collapsed", self.collapsed),
            ("dropped", self.dropped),
        ]
    }

    /// The law as an equation; states with nobody are left out.
    fn line(&self) -> String {
        let states = self.states().into_iter().filter(|(_, n)| *n > 0);
        let states: Vec<_> = states.map(|(name, n)| format!("{name} {n}")).collect();
        let sum = if states.is_empty() { "nobody".to_owned() } else { states.join(" + ") };
        format!("audience {} = {sum}", self.audience)
    }

    fn table(&self) -> String {
        let head = format!(
            "push {} to {:?}, accepted {}, deliverable until {}\n",
            self.push,
            self.topic,
            time(self.accepted_at_ms),
            time(self.expires_at_ms)
        );
        let mut rows = vec![vec!["audience".to_owned(), self.audience.to_string()]];
        rows.extend(self.states().into_iter().map(|(name, n)| vec![format!("  {name}"), n.to_string()]));
        rows.extend(self.dropped_by_reason.iter().map(|(why, n)| vec![format!("    {why}"), n.to_string()]));
        let reported = [("displayed", self.displayed), ("opened", self.opened)];
        rows.extend(
            reported.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| vec![name.into(), n.to_string()]),
        );
        let release = self.release.as_ref().map_or_else(String::new, |release| release.text() + "\n");
        head + &release + &table(&["STATE", "TERMINALS"], &rows)
    }
}
