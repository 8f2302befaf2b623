//! Registering terminals: in commands of bounded size, so that pushes behind them do not wait long.

use std::{collections::VecDeque, pin::Pin};

use cluster_proto::{
    AppId, TerminalNo,
    admin::{self, RegisterStreamResponse, Stop},
};
use futures_util::{
    StreamExt as _,
    stream::{FuturesOrdered, Stream},
};
use raft_store::{Applied, CommandBody, command::NewTerminal};
use tonic::Status;

use super::{Control, auth::Caller, backend::ProposeError, server::Services, status, validate};

/// Terminals in one command, and their bytes.
const CHUNK: usize = 5_000;
const CHUNK_BYTES: usize = 512 * 1024;
/// Commands of one stream under way.
const IN_FLIGHT_MAX: usize = 8;
/// Most terminals in one message of a stream.
const MESSAGE_MAX: usize = 100_000;

impl<C: Control> Services<C> {
    /// Registers in chunks: their numbers in order, and how many are new. Registering is repeatable, so a call
    /// that was lost half-way is simply made again.
    pub(super) async fn register_all(
        &self,
        app: AppId,
        terminals: Vec<NewTerminal>,
    ) -> Result<(Vec<TerminalNo>, u64), Status> {
        if self.control.is_disk_full() {
            return Err(status::disk_full());
        }
        let (mut all, mut registered, len) = (Vec::with_capacity(terminals.len()), 0, terminals.len());
        let mut rest = VecDeque::from(terminals);
        while !rest.is_empty() {
            let body = CommandBody::RegisterTerminals { app, terminals: chunk(&mut rest) };
            let failed = match self.control.propose(body).await {
                Ok(Applied::Registered { nos, new }) => {
                    all.extend(nos);
                    registered += new;
                    continue;
                }
                Ok(other) => status::unexpected(&other),
                Err(error) => status::propose(error),
            };
            return Err(match all.len() {
                0 => failed,
                n => status::after(&format!("the first {n} of {len} terminals are registered"), &failed),
            });
        }
        Ok((all, registered))
    }

    /// Registers what a stream brings. Only a wrong beginning is an error: once something is done, the answer says how
    /// much, and where it stopped.
    pub(super) async fn register_from(
        &self,
        caller: &Caller,
        mut messages: impl Stream<Item = Result<admin::RegisterRequest, Status>> + Unpin,
    ) -> Result<RegisterStreamResponse, Status> {
        let Some(mut message) = messages.next().await.transpose()? else {
            return Err(validate::invalid("the stream has no message: send the terminals to register"));
        };
        let name = validate::app_name(&message.app).to_owned();
        caller.in_app(&name)?;
        let app = self.app(&name).await?;
        let mut run = Run::new(self.clone(), app);
        loop {
            let is_same = message.app.is_empty() || validate::app_name(&message.app) == name;
            let added = match is_same && message.terminals.len() <= MESSAGE_MAX {
                true => run.add(message.terminals).await,
                false => Err(run.stop_here(&validate::invalid(format!(
                    "a message is for app {:?} with {} terminals: one stream is for one app, here {name:?}, and a message \
                     has at most {MESSAGE_MAX}",
                    message.app,
                    message.terminals.len()
                )))),
            };
            let stopped = match added {
                Err(stop) => Some(stop),
                Ok(()) => match messages.next().await {
                    None => None,
                    Some(Ok(next)) => {
                        message = next;
                        continue;
                    }
                    Some(Err(broken)) => Some(run.stop_here(&broken)),
                },
            };
            let answer = run.finish(stopped).await;
            let RegisterStreamResponse { registered, updated, ref stopped } = answer;
            tracing::info!(
                app = name,
                registered,
                updated,
                ?stopped,
                caller = caller.name,
                "terminals registered"
            );
            return Ok(answer);
        }
    }
}

/// The next command's terminals; at least one, if there is one.
fn chunk(rest: &mut VecDeque<NewTerminal>) -> Vec<NewTerminal> {
    let mut bytes = 0;
    let fits = rest.iter().take(CHUNK).take_while(|new| {
        bytes += size(new);
        bytes <= CHUNK_BYTES
    });
    let len = fits.count().max(1).min(rest.len());
    rest.drain(..len).collect()
}

fn size(new: &NewTerminal) -> usize {
    let tags = new.tags.iter().flatten().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    new.id.as_str().len() + tags + new.alias.as_ref().map_or(0, String::len)
}

/// What became of a command: its first item, how many, and the answer.
type Answer = (u64, u64, Result<Applied, ProposeError>);

/// A stream being registered.
struct Run<C> {
    services: Services<C>,
    app: AppId,
    /// Not proposed yet; less than a command has.
    gathered: Vec<NewTerminal>,
    bytes: usize,
    /// Items taken from the stream.
    items: u64,
    in_flight: FuturesOrdered<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    registered: u64,
    updated: u64,
}

impl<C: Control> Run<C> {
    fn new(services: Services<C>, app: AppId) -> Self {
        let (gathered, in_flight) = (Vec::new(), FuturesOrdered::new());
        Self { services, app, gathered, bytes: 0, items: 0, in_flight, registered: 0, updated: 0 }
    }

    async fn add(&mut self, terminals: Vec<admin::NewTerminal>) -> Result<(), Stop> {
        for terminal in terminals {
            let item = usize::try_from(self.items).unwrap_or(usize::MAX);
            let terminal = validate::new_terminal(item, terminal).map_err(|wrong| self.stop_here(&wrong))?;
            self.bytes += size(&terminal);
            self.gathered.push(terminal);
            self.items += 1;
            if self.gathered.len() >= CHUNK || self.bytes >= CHUNK_BYTES {
                self.propose_gathered().await?;
            }
        }
        Ok(())
    }

    /// Waits for room: the caller's stream is read no faster than the log takes it.
    async fn propose_gathered(&mut self) -> Result<(), Stop> {
        let terminals = std::mem::take(&mut self.gathered);
        self.bytes = 0;
        if terminals.is_empty() {
            return Ok(());
        }
        let len = terminals.len() as u64;
        let first = self.items - len;
        if self.services.control.is_disk_full() {
            return Err(stop(first, &status::disk_full()));
        }
        while self.in_flight.len() >= IN_FLIGHT_MAX {
            if let Some(answer) = self.in_flight.next().await {
                self.take(answer)?;
            }
        }
        let (control, app) = (self.services.control.clone(), self.app);
        self.in_flight.push_back(Box::pin(async move {
            let body = CommandBody::RegisterTerminals { app, terminals };
            (first, len, control.propose(body).await)
        }));
        Ok(())
    }

    fn take(&mut self, (first, len, answer): Answer) -> Result<(), Stop> {
        match answer {
            Ok(Applied::Registered { new, .. }) => {
                self.registered += new;
                self.updated += len - new;
                Ok(())
            }
            Ok(other) => Err(stop(first, &status::unexpected(&other))),
            Err(error) => Err(stop(first, &status::propose(error))),
        }
    }

    /// The next item is wrong, or there is none though the stream has not ended.
    fn stop_here(&self, why: &Status) -> Stop {
        stop(self.items, why)
    }

    /// Proposes what is before the stop and waits for everything under way: the first failure counts.
    async fn finish(mut self, stopped: Option<Stop>) -> RegisterStreamResponse {
        let mut stops = Vec::from_iter(stopped);
        if stops.first().is_none_or(|stop| stop.item == self.items) {
            stops.extend(self.propose_gathered().await.err());
        }
        while let Some(answer) = self.in_flight.next().await {
            stops.extend(self.take(answer).err());
        }
        let stopped = stops.into_iter().min_by_key(|stop| stop.item);
        RegisterStreamResponse { registered: self.registered, updated: self.updated, stopped }
    }
}

fn stop(item: u64, status: &Status) -> Stop {
    Stop { item, code: status::code_name(status.code()).to_owned(), message: status.message().to_owned() }
}
