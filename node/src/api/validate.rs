//! What requests must be, before anything is proposed. Messages say where and what to do.

use std::time::Duration;

use bytes::Bytes;
use cluster_proto::{
    AppId, Audience, Message, MessageProperties, Qos, TerminalId, admin,
    audience::{check_alias, check_tag_key, check_tag_value},
    limits::{
        IDEMPOTENCY_KEY_LEN_MAX, PAYLOAD_LEN_MAX, PROPERTIES_LEN_MAX, TAGS_MAX, TERMINALS_PER_CALL_MAX,
    },
};
use fabric_core::subscriptions::{
    Filter,
    filter::{validate_filter, validate_topic},
};
use prost::Message as _;
use raft_store::command::{AcceptPush, IdempotencyKey, LabelChange, NewTerminal, PushOptions};
use tonic::Status;
use xxhash_rust::xxh3::xxh3_128;

use super::{audience, release};

/// Of one batch.
const BATCH_MAX: usize = 1_000;
const BATCH_LEN_MAX: usize = 4 * 1024 * 1024;
const COLLAPSE_KEY_LEN_MAX: usize = 128;
/// Terminals named by a dry run.
const TRIAL_SAMPLE_MAX: usize = 1_000;
const APP_NAME_LEN_MAX: usize = 64;
/// They travel in the password of every CONNECT.
const PERMISSIONS_MAX: usize = 32;
/// The app of requests that name none.
const APP_DEFAULT: &str = "default";
const CREDENTIAL_TTL_DEFAULT: Duration = Duration::from_secs(24 * 3_600);
/// Longer-lived secrets on devices are better renewed.
const CREDENTIAL_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// Bounds of what a push may ask for, from the config.
#[derive(Clone, Copy, Debug)]
pub struct PushLimits {
    /// Where a push does not say.
    pub ttl_default: Duration,
    /// The longest.
    pub ttl_max: Duration,
}

/// What a dry run asks.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// Whom the push would be for.
    pub(super) audience: Audience,
    /// Its topic; may be empty.
    pub(super) topic: String,
    /// How many of them to name.
    pub(super) sample: usize,
}

/// The app a request means.
pub(super) fn app_name(asked: &str) -> &str {
    if asked.is_empty() { APP_DEFAULT } else { asked }
}

/// The command of a push request; who is online is not filled in.
pub(super) fn push(
    mut request: admin::PushRequest,
    app: AppId,
    limits: PushLimits,
    now_ms: u64,
) -> Result<AcceptPush, Status> {
    let ttl_ms = ttl(request.ttl_ms, limits)?;
    text_as_payload(&mut request)?;
    let idempotency = idempotency(&mut request)?;
    let options = options(&mut request)?;
    let audience = audience::read(request.audience)?;
    validate_topic(&request.topic).map_err(|error| invalid(format!("topic: {error}")))?;
    if request.payload.len() > PAYLOAD_LEN_MAX {
        return Err(too_much("payload", request.payload.len(), PAYLOAD_LEN_MAX, "bytes"));
    }
    let qos = qos(request.qos)?;
    let release = request.release.take().map(|asked| release::plan(asked, qos, now_ms)).transpose()?;
    let message = Message {
        app,
        kind: audience.kind(),
        topic: request.topic,
        qos,
        payload: Bytes::from(request.payload),
        properties: properties(request.properties.unwrap_or_default())?,
        publisher: None,
        retain: false,
        tells_expiry: request.ttl_ms > 0,
    };
    Ok(AcceptPush {
        message,
        audience,
        online: None,
        ttl_ms,
        options: PushOptions { release, ..options },
        retained_ttl_ms: None,
        idempotency,
        exchange: None,
    })
}

/// Before the digest is made: both spellings of a payload are one request.
fn text_as_payload(request: &mut admin::PushRequest) -> Result<(), Status> {
    let text = std::mem::take(&mut request.text);
    match (text.is_empty(), request.payload.is_empty()) {
        (true, _) => {}
        (false, true) => request.payload = text.into_bytes(),
        (false, false) => return Err(invalid("payload and text are both set: text is the payload as text")),
    }
    Ok(())
}

fn ttl(asked_ms: u64, limits: PushLimits) -> Result<u64, Status> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match asked_ms {
        0 => Ok(ms(limits.ttl_default)),
        asked if asked > ms(limits.ttl_max) => {
            Err(invalid(format!("ttl_ms is {asked}: the most is {} (push.ttl_max)", ms(limits.ttl_max))))
        }
        asked => Ok(asked),
    }
}

/// The digest is of what makes a repeated request the same one: all but the key, encoded anew, because two
/// spellings of one protobuf message are one request.
fn idempotency(request: &mut admin::PushRequest) -> Result<Option<IdempotencyKey>, Status> {
    let key = std::mem::take(&mut request.idempotency_key);
    if key.len() > IDEMPOTENCY_KEY_LEN_MAX {
        return Err(too_much("idempotency_key", key.len(), IDEMPOTENCY_KEY_LEN_MAX, "bytes"));
    }
    if key.is_empty() {
        return Ok(None);
    }
    if request.app.is_empty() {
        APP_DEFAULT.clone_into(&mut request.app);
    }
    Ok(Some(IdempotencyKey { key, digest: xxh3_128(&request.encode_to_vec()) }))
}

/// How a push is handed out.
fn options(request: &mut admin::PushRequest) -> Result<PushOptions, Status> {
    let collapse_key = std::mem::take(&mut request.collapse_key);
    if collapse_key.len() > COLLAPSE_KEY_LEN_MAX {
        return Err(too_much("collapse_key", collapse_key.len(), COLLAPSE_KEY_LEN_MAX, "bytes"));
    }
    let urgent = match admin::Priority::try_from(request.priority) {
        Ok(priority) => priority == admin::Priority::Urgent,
        Err(_) => {
            return Err(invalid(format!(
                "priority is {}: it must be 0 (NORMAL) or 1 (URGENT)",
                request.priority
            )));
        }
    };
    let collapse_key = Some(collapse_key).filter(|key| !key.is_empty());
    Ok(PushOptions { urgent, collapse_key, release: None })
}

/// The pushes of a batch, at least one.
pub(super) fn batch(request: admin::PushBatchRequest) -> Result<Vec<admin::PushRequest>, Status> {
    let (count, len) = (request.requests.len(), request.encoded_len());
    if count == 0 {
        return Err(invalid("requests is empty: name at least one push"));
    }
    if count > BATCH_MAX {
        return Err(too_much("requests", count, BATCH_MAX, "pushes"));
    }
    if len > BATCH_LEN_MAX {
        return Err(too_much("the batch", len, BATCH_LEN_MAX, "bytes"));
    }
    Ok(request.requests)
}

/// The audience of a trial: a topic is needed only where the audience mentions it.
pub(super) fn trial(request: admin::DryRunRequest) -> Result<Trial, Status> {
    let admin::DryRunRequest { audience, topic, sample, .. } = request;
    let audience = audience::read(audience)?;
    if audience.mentions_topic() || !topic.is_empty() {
        validate_topic(&topic).map_err(|error| invalid(format!("topic: {error}")))?;
    }
    let sample = sample as usize;
    if sample > TRIAL_SAMPLE_MAX {
        return Err(too_much("sample", sample, TRIAL_SAMPLE_MAX, "terminals"));
    }
    Ok(Trial { audience, topic, sample })
}

fn qos(asked: u32) -> Result<Qos, Status> {
    match asked {
        0 => Ok(Qos::AtMostOnce),
        1 => Ok(Qos::AtLeastOnce),
        2 => Ok(Qos::ExactlyOnce),
        other => Err(invalid(format!("qos is {other}: it must be 0, 1 or 2"))),
    }
}

fn properties(asked: admin::Properties) -> Result<MessageProperties, Status> {
    let properties = MessageProperties {
        payload_is_utf8: asked.payload_is_utf8,
        content_type: asked.content_type,
        response_topic: asked.response_topic,
        correlation_data: asked.correlation_data.map(Bytes::from),
        user_properties: asked.user_properties.into_iter().map(|p| (p.name, p.value)).collect(),
    };
    check_properties(&properties)?;
    Ok(properties)
}

/// What terminals could not be sent: MQTT strings have at most 65,535 bytes and no U+0000 ([MQTT-1.5.4-2]).
fn check_properties(properties: &MessageProperties) -> Result<(), Status> {
    if let Some(topic) = &properties.response_topic {
        validate_topic(topic).map_err(|error| invalid(format!("response_topic: {error}")))?;
    }
    let user = properties.user_properties.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let texts = properties.content_type.iter().map(String::as_str).chain(user);
    let mut len = properties.response_topic.as_ref().map_or(0, String::len)
        + properties.correlation_data.as_ref().map_or(0, Bytes::len);
    for text in texts {
        if text.contains('\0') {
            return Err(invalid("a property contains U+0000, which MQTT strings must not"));
        }
        len += text.len();
    }
    if len > PROPERTIES_LEN_MAX {
        return Err(too_much("properties", len, PROPERTIES_LEN_MAX, "bytes"));
    }
    Ok(())
}

/// Terminal ids, at least one.
pub(super) fn ids(what: &str, asked: Vec<String>) -> Result<Vec<TerminalId>, Status> {
    some(what, asked.len())?;
    let check =
        |(at, asked)| TerminalId::new(asked).map_err(|error| invalid(format!("{what}[{at}]: {error}")));
    asked.into_iter().enumerate().map(check).collect()
}

/// One terminal id, in the field `what`.
pub(super) fn id(what: &str, asked: String) -> Result<TerminalId, Status> {
    TerminalId::new(asked).map_err(|error| invalid(format!("{what}: {error}")))
}

/// Terminals to register, at least one.
pub(super) fn terminals(asked: Vec<admin::NewTerminal>) -> Result<Vec<NewTerminal>, Status> {
    some("terminals", asked.len())?;
    asked.into_iter().enumerate().map(|(at, terminal)| new_terminal(at, terminal)).collect()
}

/// The change of labels an update asks for.
pub(super) fn label_change(request: &mut admin::UpdateTerminalsRequest) -> Result<LabelChange, Status> {
    let mut set: Vec<_> = std::mem::take(&mut request.set_tags).into_iter().collect();
    set.sort();
    check_tags(&set).map_err(|error| invalid(format!("set_tags: {error}")))?;
    let remove = std::mem::take(&mut request.remove_tags);
    if remove.len() > TAGS_MAX {
        return Err(too_much("remove_tags", remove.len(), TAGS_MAX, "keys"));
    }
    for key in &remove {
        check_tag_key(key).map_err(|error| invalid(format!("remove_tags: {key:?}: {error}")))?;
    }
    let alias = request.alias.take();
    if let Some(alias) = alias.as_ref().filter(|alias| !alias.is_empty()) {
        check_alias(alias).map_err(|error| invalid(format!("alias: {error}")))?;
    }
    if set.is_empty() && remove.is_empty() && alias.is_none() {
        return Err(invalid("nothing to change: give set_tags, remove_tags or alias"));
    }
    Ok(LabelChange { set, remove, alias })
}

/// One terminal to register; `at` is its place, for messages.
pub(super) fn new_terminal(at: usize, asked: admin::NewTerminal) -> Result<NewTerminal, Status> {
    let id = TerminalId::new(asked.id).map_err(|error| invalid(format!("terminals[{at}].id: {error}")))?;
    let mut tags: Vec<_> = asked.tags.into_iter().collect();
    tags.sort();
    check_tags(&tags).map_err(|error| invalid(format!("terminals[{at}].tags: {error}")))?;
    if let Some(alias) = asked.alias.as_ref().filter(|alias| !alias.is_empty()) {
        check_alias(alias).map_err(|error| invalid(format!("terminals[{at}].alias: {error}")))?;
    }
    Ok(NewTerminal { id, tags: Some(tags).filter(|tags| !tags.is_empty()), alias: asked.alias })
}

fn check_tags(tags: &[(String, String)]) -> Result<(), String> {
    if tags.len() > TAGS_MAX {
        return Err(format!("{} tags, the most is {TAGS_MAX}", tags.len()));
    }
    for (key, value) in tags {
        check_tag_key(key)
            .and_then(|()| check_tag_value(value))
            .map_err(|error| format!("{key:?}: {error}"))?;
    }
    Ok(())
}

/// The name of a new app: part of MQTT user names, logs and metrics.
pub(super) fn new_app(name: &str) -> Result<(), Status> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > APP_NAME_LEN_MAX || !name.chars().all(allowed) {
        return Err(invalid(format!(
            "an app name has 1 to {APP_NAME_LEN_MAX} of the characters a-z 0-9 - _ ., not {name:?}"
        )));
    }
    Ok(())
}

/// Seconds a credential is valid.
pub(super) fn credential_ttl(asked_s: u64) -> Result<u64, Status> {
    match asked_s {
        0 => Ok(CREDENTIAL_TTL_DEFAULT.as_secs()),
        asked if asked > CREDENTIAL_TTL_MAX.as_secs() => {
            Err(invalid(format!("ttl_s is {asked}: the most is {}", CREDENTIAL_TTL_MAX.as_secs())))
        }
        asked => Ok(asked),
    }
}

/// The filters of a credential; `None`: everything.
pub(super) fn permissions(what: &str, asked: Option<admin::Filters>) -> Result<Option<Vec<String>>, Status> {
    let Some(admin::Filters { filters }) = asked else { return Ok(None) };
    if filters.len() > PERMISSIONS_MAX {
        return Err(too_much(what, filters.len(), PERMISSIONS_MAX, "filters"));
    }
    for filter in &filters {
        match validate_filter(&filter.replace("{terminal}", "id")) {
            Ok(Filter::Plain(_)) => {}
            Ok(Filter::Shared { .. }) => {
                return Err(invalid(format!("{what}: {filter}: name the filter without $share/NAME/")));
            }
            Err(error) => return Err(invalid(format!("{what}: {filter}: {error}"))),
        }
    }
    Ok(Some(filters))
}

/// A refusal of what the request says.
pub(super) fn invalid(what: impl Into<String>) -> Status {
    Status::invalid_argument(what)
}

pub(super) fn some(what: &str, len: usize) -> Result<(), Status> {
    if len == 0 {
        return Err(invalid(format!("{what} is empty")));
    }
    if len > TERMINALS_PER_CALL_MAX {
        return Err(too_much(what, len, TERMINALS_PER_CALL_MAX, "items; split the call"));
    }
    Ok(())
}

fn too_much(what: &str, len: usize, max: usize, unit: &str) -> Status {
    invalid(format!("{what} has {len}, the most is {max} {unit}"))
}

#[cfg(test)]
mod tests {
    use cluster_proto::PushKind;

    use super::*;

    const LIMITS: PushLimits =
        PushLimits { ttl_default: Duration::from_secs(60), ttl_max: Duration::from_secs(3_600) };

    fn request() -> admin::PushRequest {
        admin::PushRequest {
            audience: Some(admin::Audience { of: Some(admin::audience::Of::All(admin::Everyone {})) }),
            topic: "news".to_owned(),
            payload: b"hello".to_vec(),
            qos: 1,
            idempotency_key: "k".to_owned(),
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut admin::PushRequest)) -> String {
        let mut request = request();
        change(&mut request);
        let status = push(request, AppId::DEFAULT, LIMITS, 0).expect_err("refused");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        status.message().to_owned()
    }

    #[test]
    fn permissions_are_filters_with_a_place_for_the_terminal() {
        let asked = |filters: &[&str]| {
            let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
            permissions("publish", Some(admin::Filters { filters }))
        };
        assert_eq!(permissions("publish", None).expect("everything"), None);
        assert_eq!(asked(&[]).expect("nothing"), Some(Vec::new()));
        assert!(asked(&["devices/{terminal}/#", "news/+"]).is_ok());
        for wrong in ["a/#/b", "", "$share/g/a"] {
            assert!(asked(&[wrong]).expect_err("refused").message().starts_with("publish: "));
        }
        assert!(asked(&["a"; PERMISSIONS_MAX + 1]).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_push_is_named() {
        assert!(refused(|r| r.topic = "a/#".to_owned()).starts_with("topic: "));
        assert!(refused(|r| r.topic.clear()).starts_with("topic: "));
        assert!(refused(|r| r.qos = 3).contains("0, 1 or 2"));
        assert!(refused(|r| r.ttl_ms = 3_600_001).contains("push.ttl_max"));
        assert!(refused(|r| r.audience = None).contains("audience"));
        assert!(refused(|r| r.payload = vec![0; PAYLOAD_LEN_MAX + 1]).contains("payload"));
        assert!(refused(|r| r.idempotency_key = "x".repeat(129)).contains("idempotency_key"));
        let ids = vec!["a".to_owned(), "b\n".to_owned()];
        let of = Some(admin::audience::Of::Terminals(admin::TerminalList { ids }));
        assert!(
            refused(|r| r.audience = Some(admin::Audience { of })).starts_with("audience.terminals.ids[1]: ")
        );
        let user_properties = vec![admin::UserProperty { name: "a\0".to_owned(), value: String::new() }];
        let properties = admin::Properties { user_properties, ..Default::default() };
        assert!(refused(|r| r.properties = Some(properties)).contains("U+0000"));
    }

    #[test]
    fn the_digest_of_a_request_does_not_depend_on_its_key() {
        let key = |key: &str| {
            let request = admin::PushRequest { idempotency_key: key.to_owned(), ..request() };
            push(request, AppId::DEFAULT, LIMITS, 0).expect("valid").idempotency.expect("key").digest
        };
        assert_eq!(key("a"), key("b"));
        let other = admin::PushRequest { topic: "other".to_owned(), ..request() };
        let other = push(other, AppId::DEFAULT, LIMITS, 0).expect("valid").idempotency.expect("key").digest;
        assert_ne!(key("a"), other);
    }

    #[test]
    fn labels_of_terminals_are_checked() {
        let register = |tag: (&str, &str), alias: &str| {
            let new = admin::NewTerminal {
                id: "tv-1".to_owned(),
                tags: [(tag.0.to_owned(), tag.1.to_owned())].into(),
                alias: Some(alias.to_owned()),
            };
            terminals(vec![new])
        };
        assert_eq!(register(("os", "tv"), "").expect("valid")[0].alias.as_deref(), Some(""), "removes it");
        for (tag, alias, place) in [
            (("", "x"), "u", "terminals[0].tags: \"\": tag key is empty"),
            (("a=b", "x"), "u", "terminals[0].tags: \"a=b\": tag key has a `=`"),
            (("os", "\n"), "u", "terminals[0].tags: \"os\": tag value has a control character"),
            (("os", "tv"), "\t", "terminals[0].alias: alias has a control character"),
        ] {
            let said = register(tag, alias).expect_err("refused");
            assert!(said.message().starts_with(place), "{}", said.message());
        }
    }

    #[test]
    fn a_trial_needs_a_topic_only_for_its_subscribers() {
        let trial_of = |expression: &str, topic: &str, sample| {
            let of = Some(admin::audience::Of::Expression(expression.to_owned()));
            let (audience, topic) = (Some(admin::Audience { of }), topic.to_owned());
            trial(admin::DryRunRequest { app: String::new(), audience, topic, sample })
        };
        assert!(trial_of("online", "", 1_000).is_ok());
        assert!(trial_of("online", "a/#", 0).is_err());
        assert!(trial_of("online and topic", "", 0).expect_err("refused").message().starts_with("topic: "));
        assert!(trial_of("all", "", 1_001).expect_err("refused").message().starts_with("sample has 1001"));
    }

    #[test]
    fn only_an_audience_of_subscribers_makes_a_topic_push() {
        let identity = push(request(), AppId::DEFAULT, LIMITS, 0).expect("valid");
        assert_eq!(identity.message.kind, PushKind::Identity);
        let of = Some(admin::audience::Of::Topic(admin::Subscribers {}));
        let topic = admin::PushRequest { audience: Some(admin::Audience { of }), ..request() };
        assert_eq!(push(topic, AppId::DEFAULT, LIMITS, 0).expect("valid").message.kind, PushKind::Topic);
    }
}
