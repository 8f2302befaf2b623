//! Bytes from a terminal through the guard and the decoder.

use bytes::BytesMut;
use fabric_core::mqtt::{Malformed, Packet, ProtocolVersion};

use crate::codec;

const LEN_MAX: usize = 64 * 1024;

/// Decodes `data` in one piece, and again in pieces whose sizes `data` chooses itself; both must read the same packets
/// and meet the same end, whatever the bytes are. `versions`: those a connection of this target may speak.
pub fn check(data: &[u8], versions: &[ProtocolVersion]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    // Half of the inputs begin with CONNECT, the other half is what follows one.
    let version = (choice & 1 == 1).then(|| versions[usize::from(choice >> 1) % versions.len()]);
    let whole = read(version, std::iter::once(bytes));
    let piece = usize::from(choice >> 3) + 1;
    let pieces = read(version, bytes.chunks(piece));
    assert_eq!(whole, pieces, "it depends on how the bytes arrive");
    if let (_, Some(malformed)) = &whole {
        assert!(malformed.reason.is_error() && !malformed.what.is_empty(), "an error that says nothing: {malformed:?}");
    }
}

/// All packets, and how it ended.
fn read<'a>(
    mut version: Option<ProtocolVersion>,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Packet>, Option<Malformed>) {
    let (mut buffer, mut packets) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match codec::decode(&mut buffer, version, LEN_MAX) {
                Ok(Some(packet)) => {
                    assert!(buffer.len() < before, "a packet out of nothing");
                    if let Packet::Connect(connect) = &packet {
                        version = Some(connect.version);
                    }
                    packets.push(packet);
                }
                Ok(None) => break,
                Err(malformed) => return (packets, Some(malformed)),
            }
        }
    }
    (packets, None)
}
