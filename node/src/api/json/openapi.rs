//! The OpenAPI 3.1 document of all routes, from the descriptors and their comments.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::routes::{Route, Routes};
use crate::api::status;

/// Name of the schema of every error.
const ERROR: &str = "Error";
const DESCRIPTION: &str = "The administration API of Carillon over HTTP/JSON. Messages follow the JSON mapping of \
    protobuf: names in lowerCamelCase, 64-bit integers as strings, bytes as base64. Unknown fields are errors. Answers \
    of application/x-ndjson have one JSON object a line; an error that ends such a stream is its last line.";

/// The document.
pub(super) fn document(routes: &Routes) -> Value {
    let mut schemas = Schemas::default();
    let mut paths = BTreeMap::<String, Map<String, Value>>::new();
    for route in routes.iter() {
        let operation = operation(route, &mut schemas);
        let path = paths.entry(route.template.to_string()).or_default();
        path.insert(route.http.as_str().to_lowercase(), operation);
    }
    let tags: BTreeSet<_> = routes.iter().map(|route| route.rpc.parent_service().name().to_owned()).collect();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Carillon", "version": env!("CARGO_PKG_VERSION"), "description": DESCRIPTION },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }],
        "tags": tags.into_iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let (rpc, input) = (&route.rpc, route.rpc.input());
    let description = Comments::of(rpc.parent_file()).at(rpc.path());
    let service = rpc.parent_service();
    let in_path: BTreeSet<_> = route.template.fields().collect();
    let mut parameters = Vec::new();
    for field in input.fields() {
        let in_path = in_path.contains(field.name());
        // Templates have the names of the definitions, and so do these.
        if in_path {
            parameters.push(parameter(&field, field.name(), "path"));
        } else if !route.takes_body && field.kind().as_message().is_none() {
            parameters.push(parameter(&field, field.json_name(), "query"));
        }
    }
    let content_type = if rpc.is_server_streaming() { "application/x-ndjson" } else { "application/json" };
    let mut operation = json!({
        "operationId": format!("{}_{}", service.name(), rpc.name()),
        "tags": [service.name()],
        "responses": {
            "200": {
                "description": if rpc.is_server_streaming() { "One object a line." } else { "The answer." },
                "content": { content_type: { "schema": schemas.message(&rpc.output()) } },
            },
            "default": {
                "description": "The call failed.",
                "content": { "application/json": { "schema": reference(ERROR) } },
            },
        },
    });
    if !description.is_empty() {
        operation["description"] = description.into();
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if route.takes_body {
        let schema = schemas.body(&input, &in_path);
        operation["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
    }
    operation
}

fn parameter(field: &FieldDescriptor, name: &str, place: &str) -> Value {
    let mut parameter = json!({ "name": name, "in": place, "schema": plain(field) });
    if place == "path" {
        parameter["required"] = true.into();
    }
    let description = Comments::of(field.parent_message().parent_file()).at(field.path());
    if !description.is_empty() {
        parameter["description"] = description.into();
    }
    parameter
}

/// The schema of a field without messages in it.
fn plain(field: &FieldDescriptor) -> Value {
    let one = scalar(&field.kind());
    if field.is_list() { json!({ "type": "array", "items": one }) } else { one }
}

fn scalar(kind: &Kind) -> Value {
    match kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Float | Kind::Double => json!({ "type": "number" }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
        Kind::Uint32 | Kind::Fixed32 => {
            json!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX })
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            json!({ "type": "string", "format": "int64", "pattern": "^-?[0-9]+$" })
        }
        Kind::Uint64 | Kind::Fixed64 => {
            json!({ "type": "string", "format": "uint64", "pattern": "^[0-9]+$" })
        }
        Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        Kind::Enum(of) => enumeration(of),
        Kind::String | Kind::Message(_) => json!({ "type": "string" }),
    }
}

fn enumeration(of: &EnumDescriptor) -> Value {
    let comments = Comments::of(of.parent_file());
    let mut explained = Vec::new();
    for value in of.values() {
        let said = comments.at(value.path());
        if !said.is_empty() {
            explained.push(format!("{}: {said}", value.name()));
        }
    }
    let names: Vec<_> = of.values().map(|value| value.name().to_owned()).collect();
    let mut schema = json!({ "type": "string", "enum": names });
    if !explained.is_empty() {
        schema["description"] = explained.join("\n").into();
    }
    schema
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The schemas of all messages that routes use.
#[derive(Debug, Default)]
struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// A reference to a message, whose schema and those it needs are there from now on.
    fn message(&mut self, message: &MessageDescriptor) -> Value {
        let name = message.name();
        if !self.0.contains_key(name) {
            // Its place is taken before its fields are looked at: messages contain themselves.
            self.0.insert(name.to_owned(), Value::Null);
            let schema = self.object(message, &BTreeSet::new());
            self.0.insert(name.to_owned(), schema);
        }
        reference(name)
    }

    /// The body of a request: what is not in the path.
    fn body(&mut self, message: &MessageDescriptor, without: &BTreeSet<&str>) -> Value {
        if without.is_empty() { self.message(message) } else { self.object(message, without) }
    }

    fn object(&mut self, message: &MessageDescriptor, without: &BTreeSet<&str>) -> Value {
        let comments = Comments::of(message.parent_file());
        let mut properties = Map::new();
        for field in message.fields().filter(|field| !without.contains(field.name())) {
            let mut schema = self.field(&field);
            let mut said = vec![comments.at(field.path())];
            if let Some(oneof) = field.containing_oneof().filter(|oneof| !oneof.is_synthetic()) {
                said.push(format!("One of the fields of `{}`.", oneof.name()));
            }
            said.extend(schema.get("description").and_then(Value::as_str).map(str::to_owned));
            said.retain(|text| !text.is_empty());
            if !said.is_empty() {
                schema["description"] = said.join("\n").into();
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        let mut schema = json!({ "type": "object", "properties": properties });
        let description = comments.at(message.path());
        if !description.is_empty() {
            schema["description"] = description.into();
        }
        schema
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        let kind = field.kind();
        match kind.as_message() {
            Some(entry) if field.is_map() => {
                let values = match entry.map_entry_value_field().kind() {
                    Kind::Message(of) => self.message(&of),
                    kind => scalar(&kind),
                };
                json!({ "type": "object", "additionalProperties": values })
            }
            Some(message) if field.is_list() => json!({ "type": "array", "items": self.message(message) }),
            Some(message) => self.message(message),
            None => plain(field),
        }
    }

    fn finish(mut self) -> BTreeMap<String, Value> {
        let codes: Vec<_> = status::CODES.iter().skip(1).map(|(_, name, _)| *name).collect();
        let error = json!({
            "type": "object",
            "required": ["error"],
            "properties": { "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": { "type": "string", "enum": codes },
                    "message": { "type": "string", "description": "What is wrong, and what to do." },
                },
            }},
        });
        self.0.insert(ERROR.to_owned(), error);
        self.0
    }
}

/// The comments of a file of definitions.
struct Comments(FileDescriptor);

impl Comments {
    fn of(file: FileDescriptor) -> Self {
        Self(file)
    }

    /// What is said about the thing at `path`: before it, and behind it.
    fn at(&self, path: &[i32]) -> String {
        let locations =
            self.0.file_descriptor_proto().source_code_info.iter().flat_map(|info| &info.location);
        let Some(location) = locations.into_iter().find(|location| location.path == path) else {
            return String::new();
        };
        let texts = [location.leading_comments.as_deref(), location.trailing_comments.as_deref()];
        let lines = texts.into_iter().flatten().flat_map(str::lines);
        lines.map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use cluster_proto::admin::DESCRIPTORS;
    use prost_reflect::DescriptorPool;

    use super::*;

    fn routes() -> Routes {
        Routes::of(&DescriptorPool::decode(DESCRIPTORS).expect("descriptors")).expect("routes")
    }

    /// Every `$ref` in a document.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    /// What of the specification can be said in a few lines: what is required, and which names there may be.
    fn check(value: &Value, required: &[&str], allowed: &[&str]) {
        let fields = value.as_object().unwrap_or_else(|| panic!("{value} is no object"));
        for name in required {
            assert!(fields.contains_key(*name), "{name} is missing in {value}");
        }
        for name in fields.keys() {
            assert!(
                required.contains(&name.as_str()) || allowed.contains(&name.as_str()),
                "{name} in {value}"
            );
        }
    }

    fn check_schema(schema: &Value) {
        let allowed = [
            "$ref",
            "type",
            "format",
            "enum",
            "items",
            "properties",
            "required",
            "additionalProperties",
            "description",
            "pattern",
            "minimum",
            "maximum",
            "contentEncoding",
        ];
        check(schema, &[], &allowed);
        assert!(schema.get("$ref").is_some() || schema["type"].is_string(), "{schema}");
        assert_eq!(schema["type"] == "array", schema.get("items").is_some(), "{schema}");
        let properties = schema.get("properties").and_then(Value::as_object);
        let inner = properties.into_iter().flat_map(|all| all.values());
        inner.chain(schema.get("items")).chain(schema.get("additionalProperties")).for_each(check_schema);
    }

    fn check_content(content: &Value) {
        for (media_type, content) in content.as_object().expect("media types") {
            assert!(media_type.contains('/'));
            check(content, &["schema"], &[]);
            check_schema(&content["schema"]);
        }
    }

    /// By the structure of OpenAPI 3.1. Crates that know it bring regular expressions and Unicode tables along.
    #[test]
    fn the_document_is_openapi() {
        let document = document(&routes());
        check(&document, &["openapi", "info", "paths"], &["servers", "security", "tags", "components"]);
        assert_eq!(document["openapi"], "3.1.0");
        check(&document["info"], &["title", "version"], &["description"]);
        for operations in document["paths"].as_object().expect("paths").values() {
            for operation in operations.as_object().expect("operations").values() {
                let allowed = ["operationId", "tags", "description", "parameters", "requestBody"];
                check(operation, &["responses"], &allowed);
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    check(parameter, &["name", "in", "schema"], &["required", "description"]);
                    check_schema(&parameter["schema"]);
                }
                for (status, response) in operation["responses"].as_object().expect("responses") {
                    assert!(status == "default" || status.parse::<u16>().is_ok());
                    check(response, &["description"], &["content"]);
                    check_content(&response["content"]);
                }
                if let Some(body) = operation.get("requestBody") {
                    check(body, &["content"], &["description"]);
                    check_content(&body["content"]);
                }
            }
        }
        check(&document["components"], &[], &["schemas", "securitySchemes"]);
        document["components"]["schemas"].as_object().expect("schemas").values().for_each(check_schema);
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 30);
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("a reference into the document");
            assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference} leads nowhere");
        }
    }

    #[test]
    fn routes_and_paths_are_the_same() {
        let (document, routes) = (document(&routes()), routes());
        let paths = document["paths"].as_object().expect("paths");
        let mut described = BTreeSet::new();
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().expect("operations") {
                let id = operation["operationId"].as_str().expect("id");
                assert!(described.insert(id.to_owned()), "{id} is there twice");
                let route = routes.iter().find(|route| {
                    route.template.to_string() == *path && route.http.as_str().to_lowercase() == *method
                });
                let route = route.unwrap_or_else(|| panic!("{method} {path} has no route"));
                let fields: BTreeSet<_> = route.template.fields().collect();
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                let in_path: BTreeSet<_> = parameters
                    .iter()
                    .filter(|parameter| parameter["in"] == "path" && parameter["required"] == true)
                    .filter_map(|parameter| parameter["name"].as_str())
                    .collect();
                assert_eq!(in_path, fields, "{method} {path}");
                assert!(operation["description"].is_string(), "{id} has no comment");
            }
        }
        assert_eq!(described.len(), routes.iter().count());
    }

    #[test]
    fn schemas_are_the_json_of_messages() {
        let document = document(&routes());
        let schema = |path: &str| &document["components"]["schemas"][path];
        let push = &schema("PushRequest")["properties"];
        assert_eq!(push["ttlMs"]["type"], "string", "64 bits");
        assert_eq!(push["ttlMs"]["description"], "0: the default");
        assert_eq!(push["qos"]["type"], "integer");
        assert_eq!(push["payload"]["contentEncoding"], "base64");
        assert_eq!(push["audience"]["$ref"], "#/components/schemas/Audience");
        assert_eq!(schema("Audience")["properties"]["not"]["$ref"], "#/components/schemas/Audience");
        let reasons = &schema("StatusResponse")["properties"]["droppedByReason"];
        assert_eq!(reasons["additionalProperties"]["type"], "string");
        let parameters = document["paths"]["/v1/pushes/{push}/targets"]["get"]["parameters"].clone();
        let state = parameters.as_array().and_then(|all| all.iter().find(|one| one["name"] == "state"));
        assert_eq!(state.expect("state")["schema"]["enum"][1], "PENDING");
    }
}
