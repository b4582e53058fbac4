//! How a connection begins: TLS proves who is there, then the side that dialled says hello and the other welcomes or
//! refuses it. One thread at each side, within a time.
//!
//! Not here: connecting (`dial`), accepting (`listener`), the bytes (`wire::greeting`).

use super::Net;
use super::channel::Channel;
use super::channel::READ_BYTES;
use super::channel::ReceiveError;
use super::error::NetError;
use super::identity::Identity;
use super::link::Reader;
use super::tls::Verifier;
use crate::wire::greeting::GREETING_BYTES_MAX;
use crate::wire::greeting::Hello;
use crate::wire::greeting::Refusal;
use crate::wire::greeting::Welcome;
use crate::wire::packet::Decoder;
use crate::wire::packet::Packet;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long a side that was refused is given to hear it.
const REFUSED: Duration = Duration::from_secs(1);

/// Who proves the other side.
pub(super) enum Proof {
    /// Nothing does: whoever it is, is taken for this one.
    Plain(Identity),
    Tls(Arc<Verifier>),
}

impl Proof {
    /// Who the other side is, once something came from it.
    pub(super) fn identity(&self) -> Identity {
        match self {
            Proof::Plain(identity) => identity.clone(),
            Proof::Tls(verifier) => verifier.identity(),
        }
    }
}

/// One side of a greeting.
pub(super) struct Greeter<'a> {
    net: &'a Net,
    channel: &'a Channel,
    /// The other side, for people.
    address: &'a str,
    proof: &'a Proof,
    /// When it must be over, on the steady clock.
    until: Duration,
    reader: Reader,
    buffer: Vec<u8>,
}

impl<'a> Greeter<'a> {
    pub(super) fn new(
        net: &'a Net,
        channel: &'a Channel,
        address: &'a str,
        proof: &'a Proof,
        within: Duration,
    ) -> Greeter<'a> {
        let decoder = Decoder::new(GREETING_BYTES_MAX);
        let until = net.clock().steady() + within;
        let reader = Reader { decoder, packets: Vec::new() };
        Greeter { net, channel, address, proof, until, reader, buffer: vec![0; READ_BYTES] }
    }

    /// The side that dialled.
    pub(super) fn dial(mut self, hello: &Hello) -> Result<(Welcome, Reader), NetError> {
        if hello.body.len() > GREETING_BYTES_MAX {
            return Err(NetError::Local(format!("a hello of {} bytes", hello.body.len())));
        }
        self.send(&hello.packet())?;
        let packet = self.next()?;
        if let Some(refusal) = Refusal::from_packet(&packet) {
            let sentence = format!("{} refuses: {}", self.address, refusal.sentence);
            return Err(NetError::Refused(Refusal::new(refusal.why, sentence)));
        }
        let welcome = Welcome::from_packet(&packet)
            .ok_or_else(|| self.closed(&format!("answers a hello with a {:?}", packet.form)))?;
        if self.net.bounds().versions.common(hello.versions) < Some(welcome.version) {
            return Err(self.closed(&format!("speaks version {} all the same", welcome.version)));
        }
        Ok((welcome, self.reader))
    }

    /// The side that accepted: what the other says.
    pub(super) fn hello(&mut self) -> Result<Hello, NetError> {
        let packet = self.next()?;
        Hello::from_packet(&packet)
            .ok_or_else(|| self.closed(&format!("begins with a {:?}", packet.form)))
    }

    pub(super) fn refuse(self, refusal: Refusal) -> NetError {
        match self.send(&refusal.packet()) {
            Ok(()) => {
                self.channel.finish(REFUSED);
                NetError::Refused(refusal)
            }
            Err(error) => error,
        }
    }

    /// `within`: for this side's own part, which may have taken long.
    pub(super) fn welcome(
        mut self,
        welcome: &Welcome,
        within: Duration,
    ) -> Result<Reader, NetError> {
        if welcome.body.len() > GREETING_BYTES_MAX {
            return Err(NetError::Local(format!("a welcome of {} bytes", welcome.body.len())));
        }
        self.until = self.net.clock().steady() + within;
        self.send(&welcome.packet())?;
        Ok(self.reader)
    }

    fn closed(&self, what: &str) -> NetError {
        NetError::Closed(format!("{} {what}", self.address))
    }

    fn broke(&self, error: &io::Error) -> NetError {
        NetError::Unreachable(format!("{}: {error}", self.address))
    }

    /// What is left of the time.
    fn left(&self) -> Result<Duration, NetError> {
        let left = self.until.saturating_sub(self.net.clock().steady());
        if left.is_zero() {
            let why = format!("{} did not come up in time: is it tsfs?", self.address);
            return Err(NetError::Unreachable(why));
        }
        Ok(left)
    }

    fn send(&self, packet: &Packet) -> Result<(), NetError> {
        let parts = packet.encode().map_err(NetError::TooBig)?;
        self.send_all(parts.into_iter().filter(|part| !part.is_empty()).collect())
    }

    fn send_all(&self, mut parts: VecDeque<Bytes>) -> Result<(), NetError> {
        loop {
            let sent = self.channel.send(&mut parts).map_err(|error| self.broke(&error))?;
            if sent.blocked {
                self.channel.writable(self.left()?).map_err(|error| self.broke(&error))?;
            } else if parts.is_empty() {
                return Ok(());
            }
        }
    }

    fn next(&mut self) -> Result<Packet, NetError> {
        while self.reader.packets.is_empty() {
            let left = self.left()?;
            if !self.channel.readable(left).map_err(|error| self.broke(&error))? {
                continue;
            }
            let Reader { decoder, packets } = &mut self.reader;
            let received = match self.channel.receive(&mut self.buffer, decoder, packets) {
                Ok(received) => received,
                Err(error) => return Err(self.failed(&error)),
            };
            if received.send {
                self.send_all(VecDeque::new())?;
            }
            if received.end && self.reader.packets.is_empty() {
                let why = format!(
                    "{} closed the connection at once: perhaps it does not allow this address, or is no node",
                    self.address
                );
                return Err(NetError::Unreachable(why));
            }
        }
        Ok(self.reader.packets.remove(0))
    }

    fn failed(&self, error: &ReceiveError) -> NetError {
        match (error, self.proof) {
            (ReceiveError::Tls(error), Proof::Tls(verifier)) => {
                // rustls has an alert for the other side, which says why.
                self.channel.finish(REFUSED);
                let sentence = verifier.explain(error, self.net.clock().wall());
                NetError::Unproven(format!("{}: {sentence}", self.address))
            }
            (ReceiveError::Stream(error), _) => self.broke(error),
            (error, _) => self.closed(&format!("is not understood: {error}")),
        }
    }
}
