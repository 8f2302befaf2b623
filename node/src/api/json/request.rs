//! Path, query and body as the message of a method, by the JSON mapping of proto3.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value};
use tonic::{Status, body::Body};

use super::{
    answer::Refusal,
    routes::{Route, is_given},
};
use crate::api::{
    body::{self, Incomplete},
    forward::REQUEST_LEN_MAX,
    validate::invalid,
};

/// Objects in objects. The deepest request of ours has 35; protobuf itself refuses 100.
const NESTED_MAX: usize = 64;
/// What precedes a message on the wire: not compressed, and its length.
const PREFIX_LEN: usize = 5;

/// A whole body, at most as large as a gRPC request may be.
pub(super) async fn read(body: Body) -> Result<Bytes, Refusal> {
    body::whole(body, REQUEST_LEN_MAX).await.map_err(|error| match error {
        Incomplete::TooLarge => Refusal::too_large(REQUEST_LEN_MAX),
        Incomplete::Cut => invalid("the body was not sent completely").into(),
    })
}

/// The message of a call, framed as gRPC frames it.
pub(super) fn message(
    route: &Route,
    bound: &[(&str, String)],
    query: &str,
    body: &[u8],
) -> Result<Bytes, Status> {
    let mut message = from_body(route, body)?;
    for (field, value) in bound {
        set(&mut message, field, value)?;
    }
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name.split('.').count() > NESTED_MAX {
            return Err(invalid(format!("a parameter leads more than {NESTED_MAX} deep")));
        }
        set(&mut message, &name, &value)?;
    }
    let len = message.encoded_len();
    let framed_len =
        u32::try_from(len).map_err(|_| Status::resource_exhausted("the request is too large"))?;
    let mut framed = BytesMut::with_capacity(PREFIX_LEN + len);
    framed.put_u8(0);
    framed.put_u32(framed_len);
    message.encode(&mut framed).map_err(|error| Status::internal(error.to_string()))?;
    Ok(framed.freeze())
}

fn from_body(route: &Route, body: &[u8]) -> Result<DynamicMessage, Status> {
    let descriptor = route.rpc.input();
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(DynamicMessage::new(descriptor));
    }
    if !route.takes_body {
        return Err(invalid(format!(
            "{} {} takes no body: its parameters go into the query",
            route.http, route.template
        )));
    }
    if nests_too_deep(body) {
        return Err(invalid(format!("the body has objects nested more than {NESTED_MAX} deep")));
    }
    let wrong = |error: serde_json::Error| invalid(format!("the body: {error}"));
    let mut json = serde_json::Deserializer::from_slice(body);
    let message = DynamicMessage::deserialize(descriptor, &mut json).map_err(wrong)?;
    json.end().map_err(wrong)?;
    Ok(message)
}

/// Looks at brackets only; that it is JSON is seen later.
fn nests_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' if !in_text => depth += 1,
            b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > NESTED_MAX {
            return true;
        }
    }
    false
}

/// Sets what a path or query says; `name` may lead into messages: `properties.content_type`. The caller has seen to it
/// that it does not lead deep: what is built here is read by recursion.
fn set(message: &mut DynamicMessage, name: &str, text: &str) -> Result<(), Status> {
    let Some((outer, rest)) = name.split_once('.') else { return set_scalar(message, name, text) };
    let field = field(&message.descriptor(), outer)?;
    match message.get_field_mut(&field) {
        Value::Message(inner) => set(inner, rest, text),
        _ => Err(invalid(format!("{outer} has no fields"))),
    }
}

fn set_scalar(message: &mut DynamicMessage, name: &str, text: &str) -> Result<(), Status> {
    let field = field(&message.descriptor(), name)?;
    if is_given(message, &field) {
        return Err(invalid(format!("{name} is given twice")));
    }
    let value = value(&field, text)
        .ok_or_else(|| invalid(format!("{name} is {text:?}: {} is expected", expected(&field))))?;
    if field.is_list() {
        if let Value::List(list) = message.get_field_mut(&field) {
            list.push(value);
        }
        return Ok(());
    }
    message.set_field(&field, value);
    Ok(())
}

/// A field by its name in JSON or in the definitions, as in a body.
fn field(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, Status> {
    message
        .get_field_by_json_name(name)
        .or_else(|| message.get_field_by_name(name))
        .ok_or_else(|| invalid(format!("there is no parameter {name:?}")))
}

/// A text as the value of a field, or one of its values.
fn value(field: &FieldDescriptor, text: &str) -> Option<Value> {
    if field.is_map() {
        return None;
    }
    Some(match field.kind() {
        Kind::String => Value::String(text.to_owned()),
        Kind::Bool => Value::Bool(text.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(text.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(text.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(text.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(text.parse().ok()?),
        Kind::Float => Value::F32(text.parse().ok()?),
        Kind::Double => Value::F64(text.parse().ok()?),
        Kind::Bytes => Value::Bytes(BASE64_STANDARD.decode(text).ok()?.into()),
        Kind::Enum(of) => Value::EnumNumber(of.get_value_by_name(text)?.number()),
        Kind::Message(_) => return None,
    })
}

fn expected(field: &FieldDescriptor) -> String {
    match field.kind() {
        _ if field.is_map() => "an object in the body".to_owned(),
        Kind::Message(_) => "an object in the body".to_owned(),
        Kind::Enum(of) => of.values().map(|value| value.name().to_owned()).collect::<Vec<_>>().join(", "),
        Kind::Bytes => "base64".to_owned(),
        kind => format!("{kind:?}").to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use cluster_proto::admin::{self, DESCRIPTORS};
    use http::Method;
    use prost_reflect::DescriptorPool;

    use super::{
        super::routes::{Found, Routes},
        *,
    };

    fn read_as<T: prost::Message + Default>(
        method: Method,
        path: &str,
        query: &str,
        body: &str,
    ) -> Result<T, String> {
        let routes = Routes::of(&DescriptorPool::decode(DESCRIPTORS).expect("pool")).expect("routes");
        let Found::Route(route, bound) = routes.find(&method, path).expect("decodes") else {
            panic!("no route {path}");
        };
        let framed = message(route, &bound, query, body.as_bytes());
        let framed = framed.map_err(|status| {
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            status.message().to_owned()
        })?;
        assert_eq!(framed[..PREFIX_LEN], [&[0][..], &(framed.len() as u32 - 5).to_be_bytes()].concat());
        Ok(T::decode(&framed[PREFIX_LEN..]).expect("a message"))
    }

    /// What is built of it is read, and dropped, by recursion.
    #[test]
    fn a_parameter_that_leads_deep_is_refused() {
        let list = |depth: usize| {
            let query = format!("audience.{}expression=all", "not.".repeat(depth));
            read_as::<admin::ListTerminalsRequest>(Method::GET, "/v1/terminals", &query, "")
        };
        assert!(list(10).is_ok());
        assert!(list(16_000).expect_err("refused").contains("64 deep"));
    }

    fn push(body: &str) -> Result<admin::PushRequest, String> {
        read_as(Method::POST, "/v1/pushes", "", body)
    }

    #[test]
    fn a_body_is_the_message_in_either_spelling() {
        let body = r#"{"topic": "news", "qos": 1, "ttlMs": "60000", "idempotency_key": "k", "payload": "aGk=",
            "audience": {"tag": {"key": "os", "value": "tv"}}}"#;
        let request = push(body).expect("a push");
        assert_eq!((request.ttl_ms, request.idempotency_key.as_str()), (60_000, "k"));
        assert_eq!(request.payload, b"hi");
        let of = request.audience.and_then(|audience| audience.of).expect("audience");
        assert!(matches!(of, admin::audience::Of::Tag(tag) if tag.key == "os"));
        assert_eq!(push("").expect("nothing"), admin::PushRequest::default());
    }

    #[test]
    fn what_is_wrong_with_a_body_is_named() {
        for (body, said) in [
            (r#"{"topik": "news"}"#, "unrecognized field name 'topik'"),
            (r#"{"qos": "high"}"#, "line 1 column"),
            (r#"{"qos": 1"#, "EOF"),
            (r#"{"qos": 1} {}"#, "trailing characters"),
            (r#"[]"#, "invalid type"),
            (r#"{"payload": "%"}"#, "base64"),
            (r#"{"audience": {"all": {}, "topic": {}}}"#, "multiple fields"),
        ] {
            let refused = push(body).expect_err(body);
            assert!(refused.starts_with("the body: ") && refused.contains(said), "{body}: {refused}");
        }
        let deep = format!(r#"{{"audience":{{"not":{}"#, r#"{"not":"#.repeat(NESTED_MAX));
        assert!(push(&deep).expect_err("deep").contains("nested"));
        assert!(!nests_too_deep(br#"{"topic": "{{{{\"{{{{"}"#));
    }

    #[test]
    fn path_and_query_fill_fields() {
        let request: admin::ListTargetsRequest =
            read_as(Method::GET, "/v1/pushes/7/targets", "state=PENDING&app=tv%20+apps", "").expect("a list");
        assert_eq!((request.push, request.app.as_str()), (7, "tv  apps"));
        assert_eq!(request.state(), admin::TargetState::Pending);
        let request: admin::CancelRequest =
            read_as(Method::POST, "/v1/pushes/7:cancel", "", r#"{"app": "tv"}"#).expect("a cancel");
        assert_eq!((request.push, request.app.as_str()), (7, "tv"));
        let request: admin::PushRequest =
            read_as(Method::POST, "/v1/pushes", "properties.content_type=text/plain", "{}").expect("a push");
        assert_eq!(request.properties.expect("properties").content_type.as_deref(), Some("text/plain"));
    }

    #[test]
    fn parameters_that_are_wrong_are_named() {
        let status = |path: &str, query: &str| {
            read_as::<admin::ListTargetsRequest>(Method::GET, path, query, "").expect_err("refused")
        };
        assert_eq!(status("/v1/pushes/x/targets", ""), "push is \"x\": uint64 is expected");
        assert_eq!(status("/v1/pushes/7/targets", "stat=SENT"), "there is no parameter \"stat\"");
        assert!(status("/v1/pushes/7/targets", "state=GONE").contains("PENDING, DELIVERED"));
        assert_eq!(status("/v1/pushes/7/targets", "push=8"), "push is given twice");
        assert_eq!(status("/v1/pushes/7/targets", "app.x=8"), "app has no fields");
        let refused =
            read_as::<admin::CancelRequest>(Method::POST, "/v1/pushes/7:cancel", "", r#"{"push": 8}"#);
        assert_eq!(refused.expect_err("refused"), "push is given twice");
        let refused = read_as::<admin::StatusRequest>(Method::GET, "/v1/pushes/7", "", "{}");
        assert!(refused.expect_err("refused").contains("takes no body"));
    }
}
