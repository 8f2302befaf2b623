//! How one setting is read from text and printed again.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{CertificatePair, ClientAuth, ClientIdentity, LogFormat, LogLevel, ProxyProtocol, Roles};

/// A value as the file or the environment gives it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    /// Text, and everything from the environment.
    Text(String),
    /// Numbers and booleans of the file, as written.
    Word(String),
    /// A list of the file.
    List(Vec<Raw>),
}

impl Raw {
    fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) | Self::Word(text) => Ok(text),
            Self::List(_) => Err("must be one value, not a list".to_owned()),
        }
    }

    /// The parts of a list; text is split at commas, because the environment has no lists.
    fn list(&self) -> Result<Vec<String>, String> {
        match self {
            Self::List(items) => items.iter().map(|item| item.text().map(str::to_owned)).collect(),
            Self::Text(text) | Self::Word(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()),
        }
    }
}

/// A type that settings have.
pub(super) trait Value: Sized {
    /// Reads it, or says what is expected.
    fn read(raw: &Raw) -> Result<Self, String>;
    /// As TOML.
    fn print(&self) -> String;
}

/// A number of bytes; `64MB` in the file. Units are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// For sizes of things in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

macro_rules! number {
    ($($int:ty),*) => {$(
        impl Value for $int {
            fn read(raw: &Raw) -> Result<Self, String> {
                let text = raw.text()?.replace('_', "");
                text.parse().map_err(|_| format!("must be a whole number up to {}", <$int>::MAX))
            }

            fn print(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
number!(u16, u32, u64, usize);

impl Value for bool {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw.text()? {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("must be true or false".to_owned()),
        }
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn read(raw: &Raw) -> Result<Self, String> {
        raw.text().map(str::to_owned)
    }

    fn print(&self) -> String {
        quote(self)
    }
}

impl Value for PathBuf {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw.text()? {
            "" => Err("must be a path".to_owned()),
            text => Ok(text.into()),
        }
    }

    fn print(&self) -> String {
        quote(&self.to_string_lossy())
    }
}

/// Empty text is "not set".
impl<T: Value> Value for Option<T> {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text.is_empty() => Ok(None),
            raw => T::read(raw).map(Some),
        }
    }

    fn print(&self) -> String {
        self.as_ref().map_or_else(|| quote(""), Value::print)
    }
}

impl Value for Vec<String> {
    fn read(raw: &Raw) -> Result<Self, String> {
        raw.list()
    }

    fn print(&self) -> String {
        let items: Vec<_> = self.iter().map(|item| quote(item)).collect();
        format!("[{}]", items.join(", "))
    }
}

impl Value for SocketAddr {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text()?;
        listen_address(text)
            .ok_or_else(|| "must be an IP address and a port, like 0.0.0.0:1883 or [::]:1883".to_owned())
    }

    fn print(&self) -> String {
        quote(&self.to_string())
    }
}

/// `IP:PORT`, `localhost:PORT`, or `:PORT` for every IPv4 address of this machine.
fn listen_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    let ip = match host {
        "" => Ipv4Addr::UNSPECIFIED,
        "localhost" => Ipv4Addr::LOCALHOST,
        _ => return None,
    };
    Some(SocketAddr::new(IpAddr::V4(ip), port.parse().ok()?))
}

/// Largest unit first, so that printing finds the shortest form.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Value for Duration {
    fn read(raw: &Raw) -> Result<Self, String> {
        parse_duration(raw.text()?)
    }

    fn print(&self) -> String {
        quote(&print_duration(*self))
    }
}

/// Reads `250ms`, `30s`, `5m`, `24h`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || "must be a number with a unit: 250ms, 30s, 5m, 24h or 7d".to_owned();
    let (number, unit) = split_unit(text).ok_or_else(expected)?;
    let (_, ms) = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(expected)?;
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(|| "is too long".to_owned())
}

/// The shortest exact form, to the millisecond.
pub fn print_duration(duration: Duration) -> String {
    let total = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if total == 0 {
        return "0s".to_owned();
    }
    let unit = DURATION_UNITS.into_iter().find(|(_, ms)| total.is_multiple_of(*ms));
    unit.map_or_else(|| format!("{total}ms"), |(name, ms)| format!("{}{name}", total / ms))
}

const SIZE_UNITS: [(&str, u64); 4] = [("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10), ("B", 1)];

impl Value for ByteSize {
    fn read(raw: &Raw) -> Result<Self, String> {
        let expected = || "must be a number with a unit: 512B, 64KB, 64MB or 2GB (powers of 1024)".to_owned();
        let (number, unit) = split_unit(raw.text()?).ok_or_else(expected)?;
        let name = unit.replace("iB", "B");
        let (_, bytes) = SIZE_UNITS.into_iter().find(|(unit, _)| *unit == name).ok_or_else(expected)?;
        number.checked_mul(bytes).map(ByteSize).ok_or_else(|| "is too large".to_owned())
    }

    fn print(&self) -> String {
        let unit = SIZE_UNITS.into_iter().find(|(_, bytes)| self.0 != 0 && self.0.is_multiple_of(*bytes));
        quote(&unit.map_or_else(|| "0B".to_owned(), |(name, bytes)| format!("{}{name}", self.0 / bytes)))
    }
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    Some((number.parse().ok()?, unit.trim()))
}

impl Value for Roles {
    fn read(raw: &Raw) -> Result<Self, String> {
        let mut roles = Self { control: false, edge: false };
        for role in raw.list()? {
            match role.as_str() {
                "control" => roles.control = true,
                "edge" => roles.edge = true,
                other => return Err(format!("has the unknown role {other:?}: there are control and edge")),
            }
        }
        Ok(roles)
    }

    fn print(&self) -> String {
        let names = [(self.control, "control"), (self.edge, "edge")];
        names.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.to_owned()).collect::<Vec<_>>().print()
    }
}

/// Settings that are one of a few words.
macro_rules! words {
    ($($type:ident: $expected:literal, $($word:literal = $variant:ident),*;)*) => {$(
        impl Value for $type {
            fn read(raw: &Raw) -> Result<Self, String> {
                match raw.text()? {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(concat!("must be ", $expected).to_owned()),
                }
            }

            fn print(&self) -> String {
                quote(match self {
                    $(Self::$variant => $word,)*
                })
            }
        }
    )*};
}
words! {
    LogFormat: "text or json", "text" = Text, "json" = Json;
    ClientAuth: "required or optional", "required" = Required, "optional" = Optional;
    ClientIdentity: "none or common-name", "none" = None, "common-name" = CommonName;
}

impl Value for Vec<CertificatePair> {
    fn read(raw: &Raw) -> Result<Self, String> {
        let pair = |text: String| {
            let (cert, key) =
                text.split_once(':').filter(|(cert, key)| !cert.is_empty() && !key.is_empty())?;
            Some(CertificatePair { cert: cert.into(), key: key.into() })
        };
        let pairs = raw.list()?.into_iter().map(pair).collect::<Option<Self>>();
        pairs.ok_or_else(|| "must be a list of \"CERT.pem:KEY.pem\"".to_owned())
    }

    fn print(&self) -> String {
        let pair = |pair: &CertificatePair| format!("{}:{}", pair.cert.display(), pair.key.display());
        self.iter().map(pair).collect::<Vec<_>>().print()
    }
}

impl Value for ProxyProtocol {
    fn read(raw: &Raw) -> Result<Self, String> {
        let all = |on| Self { tcp: on, tls: on, ws: on, wss: on };
        let mut found = all(false);
        for listener in raw.list()? {
            match listener.as_str() {
                "true" => found = all(true),
                "false" => {}
                "tcp" => found.tcp = true,
                "tls" => found.tls = true,
                "ws" => found.ws = true,
                "wss" => found.wss = true,
                _ => return Err("must be true, false, or a list of tcp, tls, ws and wss".to_owned()),
            }
        }
        Ok(found)
    }

    fn print(&self) -> String {
        let names = [(self.tcp, "tcp"), (self.tls, "tls"), (self.ws, "ws"), (self.wss, "wss")];
        let on: Vec<_> = names.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.to_owned()).collect();
        match on.len() {
            0 => "false".to_owned(),
            4 => "true".to_owned(),
            _ => on.print(),
        }
    }
}

impl Value for LogLevel {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text()?;
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) if !text.is_empty() => Ok(Self(text.to_owned())),
            _ => Err("must be error, warn, info, debug or trace, or a filter like info,carillon::edge=debug"
                .to_owned()),
        }
    }

    fn print(&self) -> String {
        quote(&self.0)
    }
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_survive_printing() {
        for text in ["250ms", "30s", "5m", "36h", "7d", "0s", "1500ms"] {
            assert_eq!(print_duration(parse_duration(text).expect(text)), text);
        }
        for text in ["512B", "64KB", "3MB", "2GB", "1025KB"] {
            let size = ByteSize::read(&Raw::Text(text.to_owned())).expect(text);
            assert_eq!(size.print(), quote(text));
        }
        assert_eq!(ByteSize::read(&Raw::Text("64MiB".to_owned())), Ok(ByteSize::mib(64)));
    }

    #[test]
    fn a_number_without_a_unit_is_no_duration_and_no_overflow_passes() {
        for text in ["30", "", "s", "-1s", "30 parsecs", "99999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_proxy_protocol_is_on_for_all_listeners_or_for_some() {
        let read = |raw| ProxyProtocol::read(&raw);
        let all = ProxyProtocol { tcp: true, tls: true, ws: true, wss: true };
        assert_eq!(read(Raw::Word("true".to_owned())), Ok(all));
        assert_eq!(
            read(Raw::Text("ws, tls".to_owned())).map(|some| some.print()),
            Ok("[\"tls\", \"ws\"]".to_owned())
        );
        assert_eq!(read(Raw::Word("false".to_owned())), Ok(ProxyProtocol::default()));
        assert!(read(Raw::Text("udp".to_owned())).is_err());
    }

    #[test]
    fn a_certificate_comes_with_its_key() {
        let pairs = Vec::<CertificatePair>::read(&Raw::Text("a.pem:a.key,b.pem:b.key".to_owned()));
        assert_eq!(pairs.map(|pairs| pairs.print()), Ok("[\"a.pem:a.key\", \"b.pem:b.key\"]".to_owned()));
        assert!(Vec::<CertificatePair>::read(&Raw::Text("a.pem".to_owned())).is_err());
    }

    #[test]
    fn listen_addresses_may_leave_out_the_host() {
        assert_eq!(listen_address(":1883"), Some(SocketAddr::from(([0, 0, 0, 0], 1883))));
        assert_eq!(listen_address("localhost:1"), Some(SocketAddr::from(([127, 0, 0, 1], 1))));
        assert_eq!(listen_address("[::1]:1"), Some(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 1))));
        for wrong in ["1883", "example.org:1883", "0.0.0.0:99999", ""] {
            assert_eq!(listen_address(wrong), None, "{wrong}");
        }
    }
}
