//! Terminals of an edge that dies: they connect, are handed what they are owed and acknowledge nothing, lose their
//! edge, connect to another one all at once, and acknowledge what they get there. Run as a process of its own, which
//! has its own open files; told what to do by lines on its standard input.

use std::{
    io::{BufRead as _, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{Result, registry::id};

/// No byte for anybody for so long: everything has arrived.
const QUIET: Duration = Duration::from_secs(5);
const PASS: Duration = Duration::from_millis(5);
/// A terminal that was turned away comes again after this.
const AGAIN: Duration = Duration::from_millis(500);

struct Terminal {
    no: u32,
    socket: TcpStream,
    bytes: Vec<u8>,
    connected: bool,
    again: Option<Instant>,
}

/// Arguments: the edge that will die, the other one, the numbers of the terminals as `first step count`.
pub(crate) fn main(words: impl Iterator<Item = String>) -> Result<()> {
    let words: Vec<_> = words.collect();
    let [dies, stays, first, step, count] = &words[..] else {
        return Err("terminals-of-an-edge DIES STAYS FIRST STEP COUNT".into());
    };
    let (first, step, count): (u32, u32, u32) = (first.parse()?, step.parse()?, count.parse()?);
    let nos = || (0..count).map(|n| first + n * step);
    let mut lines = std::io::stdin().lock().lines();
    let mut before = nos().map(|no| Terminal::connect(dies, no)).collect::<Result<Vec<_>>>()?;
    let (got, _) = receive(dies, &mut before, false)?;
    println!("{got}");
    lines.next().transpose()?;
    drop(before);
    let begin = Instant::now();
    let mut after = nos().map(|no| Terminal::connect(stays, no)).collect::<Result<Vec<_>>>()?;
    let (got, took) = receive(stays, &mut after, true)?;
    let connected = after.iter().filter(|terminal| terminal.connected).count();
    println!("{connected} {got} {}", (begin.elapsed() - took).as_millis());
    lines.next().transpose()?;
    Ok(())
}

/// Until it is quiet; answers how many messages came, and how long it has been quiet.
fn receive(address: &str, terminals: &mut [Terminal], acknowledge: bool) -> Result<(u64, Duration)> {
    let (mut got, mut last) = (0, Instant::now());
    let mut buffer = vec![0; 64 * 1024];
    while last.elapsed() < QUIET || !terminals.iter().all(|terminal| terminal.connected) {
        if last.elapsed() > 12 * QUIET {
            return Err("terminals were not connected in time".into());
        }
        for terminal in terminals.iter_mut() {
            if let Some(again) = terminal.again {
                if again <= Instant::now() {
                    *terminal = Terminal::connect(address, terminal.no)?;
                }
                continue;
            }
            match terminal.socket.read(&mut buffer) {
                Ok(0) => terminal.turned_away(),
                Ok(len) => {
                    terminal.bytes.extend_from_slice(&buffer[..len]);
                    got += terminal.take(acknowledge)?;
                    last = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => terminal.turned_away(),
            }
        }
        std::thread::sleep(PASS);
    }
    Ok((got, last.elapsed()))
}

impl Terminal {
    fn connect(address: &str, no: u32) -> Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let (id, mut packet) = (id(no), vec![0x10, 0]);
        // Version 3.1.1, clean session, no keep-alive.
        packet.extend_from_slice(b"\x00\x04MQTT\x04\x02\x00\x00\x00");
        packet.push(id.len() as u8);
        packet.extend_from_slice(id.as_bytes());
        packet[1] = (packet.len() - 2) as u8;
        socket.write_all(&packet)?;
        socket.set_nonblocking(true)?;
        Ok(Self { no, socket, bytes: Vec::new(), connected: false, again: None })
    }

    /// As any terminal: it tries again.
    fn turned_away(&mut self) {
        self.connected = false;
        self.again = Some(Instant::now() + AGAIN);
    }

    /// Takes whole packets; answers how many were messages.
    fn take(&mut self, acknowledge: bool) -> Result<u64> {
        let (mut got, mut answer) = (0, Vec::new());
        while let Some((head, body, len)) = packet(&self.bytes) {
            match head >> 4 {
                2 => self.connected = body.get(1) == Some(&0),
                3 => {
                    got += 1;
                    let topic = body.first_chunk::<2>().map_or(0, |len| u16::from_be_bytes(*len));
                    let at = 2 + usize::from(topic);
                    let packet_id = body.get(at..at + 2).ok_or("a message without a packet id")?;
                    answer.extend_from_slice(&[0x40, 2]);
                    answer.extend_from_slice(packet_id);
                }
                _ => {}
            }
            self.bytes.drain(..len);
        }
        if acknowledge && !answer.is_empty() && self.socket.write_all(&answer).is_err() {
            self.turned_away();
        }
        Ok(got)
    }
}

/// The first packet, if all of it is there: its first byte, what follows its length, and how long it is.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&head, rest) = bytes.split_first()?;
    let (mut len, mut shift) = (0, 0);
    for (n, &byte) in rest.iter().take(4).enumerate() {
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let begin = 2 + n;
            return Some((head, bytes.get(begin..begin + len)?, begin + len));
        }
    }
    None
}
