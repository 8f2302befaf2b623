//! Frames to bytes and back: a big-endian `u32` length, then postcard. Bounded by [`FRAME_LEN_MAX`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};

use crate::limits::FRAME_LEN_MAX;

/// Why bytes are not a frame, or a frame cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Longer than [`FRAME_LEN_MAX`].
    #[error("frame of {0} bytes, the most is {FRAME_LEN_MAX}")]
    TooLong(usize),
    /// Not the bytes of this frame type.
    #[error("malformed frame: {0}")]
    Malformed(#[from] postcard::Error),
}

/// Appends `frame` to `buffer`, length first. On error the buffer is as before.
pub fn encode<T: Serialize>(frame: &T, buffer: &mut BytesMut) -> Result<(), CodecError> {
    let start = buffer.len();
    buffer.put_u32(0);
    if let Err(error) = postcard::serialize_with_flavor(frame, Appender(buffer)) {
        buffer.truncate(start);
        return Err(error.into());
    }
    let len = buffer.len() - start - 4;
    if len > FRAME_LEN_MAX {
        buffer.truncate(start);
        return Err(CodecError::TooLong(len));
    }
    buffer[start..start + 4].copy_from_slice(&(len as u32).to_be_bytes());
    Ok(())
}

/// Takes one frame off the front of `buffer`; `None` while it is incomplete.
pub fn decode<T: DeserializeOwned>(buffer: &mut BytesMut) -> Result<Option<T>, CodecError> {
    let Some(frame) = split_frame(buffer)? else { return Ok(None) };
    Ok(Some(postcard::from_bytes(&frame)?))
}

/// Takes the bytes of one frame off the front of `buffer`, without its length.
pub fn split_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
    let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*prefix) as usize;
    if len > FRAME_LEN_MAX {
        return Err(CodecError::TooLong(len));
    }
    if buffer.len() < 4 + len {
        buffer.reserve(4 + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// Lets postcard append to a `BytesMut`, slices whole: bodies of a quarter of a megabyte travel in frames.
struct Appender<'a>(&'a mut BytesMut);

impl Flavor for Appender<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_split_at_any_byte_come_out_whole() {
        let mut wire = BytesMut::new();
        for n in 0..3u64 {
            encode(&(n, vec![n as u8; 10]), &mut wire).expect("encode");
        }
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            while let Some(frame) = decode::<(u64, Vec<u8>)>(&mut buffer).expect("decode") {
                frames.push(frame.0);
            }
        }
        assert_eq!(frames, [0, 1, 2]);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_awaited() {
        let mut buffer = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(matches!(decode::<u64>(&mut buffer), Err(CodecError::TooLong(_))));
    }
}
