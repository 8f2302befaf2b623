//! The PROXY protocol: a proxy says first whom it speaks for.
//!
//! Read on listeners that are configured for it, and there from every connection: whoever can reach such a listener can
//! claim any address.

use std::{io, net::SocketAddr};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with; version 1 is longer than that too.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_PREFIX: &[u8] = b"PROXY ";
/// [PROXY protocol, 2.1]
const V1_LEN_MAX: usize = 107;
const V2_HEAD_LEN: usize = 16;
/// Addresses and what proxies add (names, certificates); the format would allow 64 KiB.
const V2_LEN_MAX: usize = 4 * 1024;

/// Why a header is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("read: {0}")]
    Read(#[from] io::Error),
    #[error("there is no PROXY header")]
    None,
    #[error("the header is too long")]
    TooLong,
    #[error("{0}")]
    V1(#[from] v1::BinaryParseError),
    #[error("{0}")]
    V2(#[from] v2::ParseError),
}

/// Reads the header and not a byte more. `None`: the proxy speaks for itself (a health check), or does not know.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        read_v2(stream, header).await
    } else if header.starts_with(V1_PREFIX) {
        read_v1(stream, header).await
    } else {
        Err(ProxyError::None)
    }
}

async fn read_v1(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyError> {
    // Its length is not told, and what follows belongs to somebody else: byte by byte.
    while !header.ends_with(b"\r\n") {
        if header.len() >= V1_LEN_MAX {
            return Err(ProxyError::TooLong);
        }
        header.push(stream.read_u8().await?);
    }
    Ok(match v1::Header::try_from(&header[..])?.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn read_v2(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyError> {
    header.resize(V2_HEAD_LEN, 0);
    stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
    let len = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if len > V2_LEN_MAX {
        return Err(ProxyError::TooLong);
    }
    header.resize(V2_HEAD_LEN + len, 0);
    stream.read_exact(&mut header[V2_HEAD_LEN..]).await?;
    let header = v2::Header::try_from(&header[..])?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header; answers what is left of the stream too.
    async fn header(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let result = read(&mut bytes).await.map_err(|error| error.to_string());
        (result, bytes.to_vec())
    }

    fn v2_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u16).to_be_bytes();
        [SIGNATURE, &[0x20 | command, family][..], &len, body, b"\x10\x0c"].concat()
    }

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("address"))
    }

    #[tokio::test]
    async fn a_text_header_says_who_it_is_and_leaves_what_follows() {
        for (line, peer) in [
            ("PROXY TCP4 198.51.100.7 203.0.113.1 40000 1883\r\n", address("198.51.100.7:40000")),
            ("PROXY TCP6 2001:db8::7 2001:db8::1 40000 1883\r\n", address("[2001:db8::7]:40000")),
            ("PROXY UNKNOWN\r\n", None),
        ] {
            let (result, rest) = header(format!("{line}\x10\x0c").as_bytes()).await;
            assert_eq!((result, &rest[..]), (Ok(peer), &b"\x10\x0c"[..]), "{line}");
        }
    }

    #[tokio::test]
    async fn a_binary_header_says_who_it_is_and_leaves_what_follows() {
        let v4 = [198, 51, 100, 7, 203, 0, 113, 1, 0x9C, 0x40, 0x07, 0x5B];
        let with_name = [&v4[..], &[2, 0, 4, b'e', b'd', b'g', b'e']].concat();
        for (command, family, body, peer) in [
            (1, 0x11, &v4[..], address("198.51.100.7:40000")),
            (1, 0x11, &with_name[..], address("198.51.100.7:40000")),
            (0, 0x11, &v4[..], None),
            (0, 0, &[][..], None),
        ] {
            let (result, rest) = header(&v2_header(command, family, body)).await;
            assert_eq!((result, &rest[..]), (Ok(peer), &b"\x10\x0c"[..]), "{command} {family} {body:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_and_a_long_one_is_not_read() {
        let long_text = [&b"PROXY TCP4 "[..], &[b' '; 200]].concat();
        let mut long_binary = v2_header(1, 0x11, &[0; 12]);
        long_binary[14..16].copy_from_slice(&0xFFFFu16.to_be_bytes());
        for bytes in [
            &b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0"[..],
            b"GET /mqtt HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 1.2.3.4 nowhere 1 2\r\n",
            b"PROXY TCP4 1.2.3.4",
            &long_text,
            &long_binary,
            &v2_header(1, 0x11, &[1, 2, 3]),
        ] {
            let (result, _) = header(bytes).await;
            assert!(result.is_err(), "{bytes:?}: {result:?}");
        }
    }
}
