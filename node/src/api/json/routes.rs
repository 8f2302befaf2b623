//! Which method a path means: the `google.api.http` options of the API's methods.
//!
//! A path is `/` and segments, each a literal or `{field}`, and perhaps `:verb` at its end. A field takes one segment,
//! percent-encoded; what it takes is never a verb that some route has there.

use http::{Method, Uri};
use percent_encoding::percent_decode_str;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor, Value,
};
use tonic::Status;

use crate::api::validate::invalid;

const OPTION: &str = "google.api.http";

/// All routes.
#[derive(Debug)]
pub(super) struct Routes(Vec<Route>);

/// One method over HTTP.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) http: Method,
    pub(super) template: Template,
    /// Whether fields may come in a body; if not, those that are not in the path are query parameters only.
    pub(super) takes_body: bool,
    pub(super) rpc: MethodDescriptor,
    /// `/package.Service/Method`.
    pub(super) rpc_path: Uri,
}

/// A path with places for fields.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) segments: Vec<Segment>,
    pub(super) verb: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(String),
    Field(String),
}

/// What is at a path.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A method, and the fields in the path.
    Route(&'a Route, Vec<(&'a str, String)>),
    /// Something, but not for this HTTP method.
    OtherMethods(Vec<Method>),
    Nothing,
}

impl Routes {
    /// The routes of all methods that have the option.
    pub(super) fn of(pool: &DescriptorPool) -> Result<Self, String> {
        let option = pool.get_extension_by_name(OPTION).ok_or_else(|| format!("{OPTION} is not known"))?;
        let mut routes = Vec::new();
        for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let options = rpc.options();
            if !options.has_extension(&option) {
                continue;
            }
            let rule = options.get_extension(&option);
            let rule = rule.as_message().ok_or_else(|| format!("{OPTION} is no message"))?;
            let route = Route::of(&rpc, rule);
            routes.push(route.map_err(|why| format!("{}: {OPTION}: {why}", rpc.full_name()))?);
        }
        Ok(Self(routes))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    /// What is at `path`, as it came: percent-encoded.
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<Found<'_>, Status> {
        let mut found = None;
        let mut others = Vec::new();
        for route in &self.0 {
            let Some(bound) = route.template.bind(path) else { continue };
            if route.http != *method {
                others.push(route.http.clone());
            } else if found.is_none() || route.template.verb.is_some() {
                found = Some((route, bound));
            }
        }
        let Some((route, bound)) = found else {
            return Ok(if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others) });
        };
        let decode = |(field, raw): (_, &str)| match percent_decode_str(raw).decode_utf8() {
            Ok(value) => Ok((field, value.into_owned())),
            Err(_) => Err(invalid(format!("{field} in the path is not UTF-8"))),
        };
        Ok(Found::Route(route, bound.into_iter().map(decode).collect::<Result<_, _>>()?))
    }
}

impl Route {
    fn of(rpc: &MethodDescriptor, rule: &DynamicMessage) -> Result<Self, String> {
        let text = |name| rule.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned));
        let methods = [
            ("get", Method::GET),
            ("put", Method::PUT),
            ("post", Method::POST),
            ("delete", Method::DELETE),
            ("patch", Method::PATCH),
        ];
        let pattern = methods.into_iter().find(|(name, _)| rule.has_field_by_name(name));
        let (name, http) = pattern.ok_or("no get, put, post, delete or patch")?;
        let template = Template::parse(&text(name).unwrap_or_default())?;
        for field in template.fields() {
            scalar(&rpc.input(), field)?;
        }
        let takes_body = match text("body").as_deref() {
            None | Some("") => false,
            Some("*") => true,
            Some(other) => return Err(format!("body is {other:?}: only \"*\" is known")),
        };
        for unknown in ["additional_bindings", "response_body"] {
            if rule.has_field_by_name(unknown) {
                return Err(format!("{unknown} is not known"));
            }
        }
        if rpc.is_client_streaming() {
            return Err("a stream of requests has no route".to_owned());
        }
        let rpc_path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
        let rpc_path = rpc_path.parse().map_err(|error| format!("{rpc_path}: {error}"))?;
        Ok(Self { http, template, takes_body, rpc: rpc.clone(), rpc_path })
    }
}

/// A field that a path may have.
fn scalar(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    let field = message.get_field_by_name(name).ok_or_else(|| format!("there is no field {name}"))?;
    if field.is_list() || field.is_map() || field.kind().as_message().is_some() {
        return Err(format!("the field {name} does not fit into a path"));
    }
    Ok(field)
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or("a path begins with /")?;
        // A colon inside braces would be part of a pattern, which is not known here.
        let (rest, verb) = match rest.rsplit_once(':') {
            Some((rest, verb)) => (rest, Some(verb.to_owned())),
            None => (rest, None),
        };
        let segment = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(field) => Ok(Segment::Field(field.to_owned())),
            None if part.is_empty() || part.contains(['{', '}', '*']) => {
                Err(format!("{part:?} is no segment"))
            }
            None => Ok(Segment::Literal(part.to_owned())),
        };
        Ok(Self { segments: rest.split('/').map(segment).collect::<Result<_, _>>()?, verb })
    }

    /// The fields it has places for.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Field(field) => Some(field.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// The fields in `path`, if it is of this form.
    fn bind<'a, 'p>(&'a self, path: &'p str) -> Option<Vec<(&'a str, &'p str)>> {
        let path = path.strip_prefix('/')?;
        let path = match &self.verb {
            Some(verb) => path.strip_suffix(verb.as_str())?.strip_suffix(':')?,
            None => path,
        };
        let mut bound = Vec::new();
        let mut parts = path.split('/');
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Literal(literal) if literal == part => {}
                Segment::Field(field) if !part.is_empty() => bound.push((field.as_str(), part)),
                Segment::Literal(_) | Segment::Field(_) => return None,
            }
        }
        parts.next().is_none().then_some(bound)
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Field(field) => write!(f, "/{{{field}}}")?,
            }
        }
        match &self.verb {
            Some(verb) => write!(f, ":{verb}"),
            None => Ok(()),
        }
    }
}

/// Whether a field was given already, so that a second value would replace it.
pub(super) fn is_given(message: &DynamicMessage, field: &FieldDescriptor) -> bool {
    !field.is_list() && message.has_field(field) && !matches!(*message.get_field(field), Value::Message(_))
}

#[cfg(test)]
mod tests {
    use cluster_proto::admin::DESCRIPTORS;

    use super::*;

    fn routes() -> Routes {
        Routes::of(&DescriptorPool::decode(DESCRIPTORS).expect("descriptors")).expect("routes")
    }

    /// The method at a path, and what the path says.
    fn at(method: Method, path: &str) -> Option<(String, Vec<String>)> {
        match routes().find(&method, path).expect("decodes") {
            Found::Route(route, bound) => {
                Some((route.rpc_path.to_string(), bound.into_iter().map(|(_, value)| value).collect()))
            }
            Found::OtherMethods(_) | Found::Nothing => None,
        }
    }

    #[test]
    fn every_method_for_back_ends_has_a_route() {
        let routes = routes();
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
        let ours = pool.services().filter(|service| service.full_name().starts_with("carillon."));
        for rpc in ours.flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let name = rpc.full_name().to_owned();
            let operators = name.starts_with("carillon.v1.Cluster.") && name != "carillon.v1.Cluster.Status";
            let expected = !operators && !rpc.is_client_streaming();
            let has = routes.iter().any(|route| route.rpc.full_name() == name);
            assert_eq!(has, expected, "{name}: does it have a google.api.http option?");
        }
    }

    #[test]
    fn no_path_means_two_methods() {
        let mut seen = std::collections::BTreeSet::new();
        for route in routes().iter() {
            // Names of fields do not tell paths apart.
            let name = |segment: &Segment| match segment {
                Segment::Literal(literal) => literal.clone(),
                Segment::Field(_) => "{}".to_owned(),
            };
            let shape: Vec<_> = route.template.segments.iter().map(name).collect();
            let shape = (route.http.to_string(), shape, route.template.verb.clone());
            assert!(seen.insert(shape), "{} {} is there twice", route.http, route.template);
        }
    }

    #[test]
    fn a_path_names_a_method_and_fields() {
        let (rpc, bound) = at(Method::POST, "/v1/pushes/7:cancel").expect("found");
        assert_eq!((rpc.as_str(), bound), ("/carillon.v1.Pushes/Cancel", vec!["7".to_owned()]));
        let (rpc, bound) = at(Method::GET, "/v1/pushes/7/terminals/a%2Fb%3Akick").expect("found");
        assert_eq!(rpc, "/carillon.v1.Pushes/Explain");
        assert_eq!(bound, ["7", "a/b:kick"]);
        let (rpc, bound) = at(Method::GET, "/v1/terminals/urn:tv:1").expect("a colon is no verb by itself");
        assert_eq!((rpc.as_str(), bound), ("/carillon.v1.Terminals/Get", vec!["urn:tv:1".to_owned()]));
        for nothing in ["", "/", "/v1", "/v1/pushes/", "/v1/pushes/7/", "//v1/pushes", "/v1/pushes/7/x"] {
            assert_eq!(at(Method::GET, nothing), None, "{nothing}");
        }
        assert!(routes().find(&Method::GET, "/v1/terminals/%ff").is_err(), "not UTF-8");
        let other = routes();
        let Found::OtherMethods(methods) = other.find(&Method::DELETE, "/v1/pushes").expect("decodes") else {
            panic!("only POST");
        };
        assert_eq!(methods, [Method::POST]);
    }

    #[test]
    fn templates_that_are_not_understood_are_refused() {
        for wrong in ["v1", "/v1/{a=b/*}", "/v1/*", "/v1//x", "/v1/{a"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
        let text = "/v1/{a}/b:verb";
        assert_eq!(Template::parse(text).expect("a template").to_string(), text);
    }
}
