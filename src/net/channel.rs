//! A stream that carries packets: as they are, or sealed by TLS.
//!
//! TLS is rustls' buffered form under a mutex. Who reads waits for bytes without the mutex and opens them under it; who
//! writes seals a piece and hands it to the socket under it, without waiting. Writers are in turn by the right to write
//! (`outbox`), so records reach the socket in the order in which they were sealed.
//!
//! Not here: who may write, certificates.

use super::error::NetError;
use super::stream::Stream;
use crate::wire::packet::Decoder;
use crate::wire::packet::Packet;
use bytes::Buf;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::io::BufRead;
use std::io::IoSlice;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// Bytes read at a time.
pub(super) const READ_BYTES: usize = 64 << 10;
/// Bytes sealed at a time: the reader waits for the mutex no longer than this takes, some 100 µs.
const SEAL_BYTES: usize = 256 << 10;
/// Reads of what nobody wants any more, before a connection is closed all the same.
const FINISH_READS: usize = 64;
/// Parts given to the kernel in one call.
const PARTS: usize = 64;

pub(super) struct Channel {
    stream: Arc<dyn Stream>,
    tls: Option<Mutex<rustls::Connection>>,
}

/// What came of sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    /// Bytes that were taken. They need not be on the socket yet.
    pub(super) bytes: usize,
    /// The socket has no room: wait for [`Channel::writable`] and send again, even if there are no bytes left.
    pub(super) blocked: bool,
}

/// What came of receiving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Received {
    /// The other side sent nothing more and never will.
    pub(super) end: bool,
    /// TLS has something to say: send, if only nothing.
    pub(super) send: bool,
}

impl Channel {
    pub(super) fn new(stream: Arc<dyn Stream>, tls: Option<rustls::Connection>) -> Channel {
        let tls = tls.map(|mut tls| {
            // What is not on the socket yet is bounded here, by SEAL_BYTES.
            tls.set_buffer_limit(None);
            Mutex::new(tls)
        });
        Channel { stream, tls }
    }

    /// Takes of the parts what can be taken without waiting. The caller has the right to write.
    pub(super) fn send(&self, parts: &mut VecDeque<Bytes>) -> io::Result<Sent> {
        let Some(tls) = &self.tls else {
            return self.send_plain(parts);
        };
        let (mut tls, mut bytes) = (tls.lock(), 0);
        loop {
            while tls.wants_write() {
                match tls.write_tls(&mut Now(&*self.stream)) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Sent { bytes, blocked: true });
                    }
                    Err(error) => return Err(error),
                }
            }
            // One piece in each call: the mutex goes round, and the caller sees what else is to be sent.
            if parts.is_empty() || bytes > 0 {
                return Ok(Sent { bytes, blocked: false });
            }
            while bytes < SEAL_BYTES
                && let Some(part) = parts.front_mut()
            {
                let piece = part.split_to(part.len().min(SEAL_BYTES - bytes));
                tls.writer().write_all(&piece)?;
                bytes += piece.len();
                if part.is_empty() {
                    parts.pop_front();
                }
            }
        }
    }

    fn send_plain(&self, parts: &mut VecDeque<Bytes>) -> io::Result<Sent> {
        let mut bytes = 0;
        while !parts.is_empty() {
            let slices: Vec<IoSlice<'_>> =
                parts.iter().take(PARTS).map(|part| IoSlice::new(part)).collect();
            let mut count = match self.stream.write(&slices) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Sent { bytes, blocked: true });
                }
                Err(error) => return Err(error),
            };
            bytes += count;
            while let Some(part) = parts.front_mut() {
                let taken = count.min(part.len());
                part.advance(taken);
                count -= taken;
                if !part.is_empty() {
                    break;
                }
                parts.pop_front();
            }
        }
        Ok(Sent { bytes, blocked: false })
    }

    pub(super) fn writable(&self, within: Duration) -> io::Result<bool> {
        self.stream.writable(within)
    }

    pub(super) fn readable(&self, within: Duration) -> io::Result<bool> {
        self.stream.readable(within)
    }

    pub(super) fn end(&self) {
        self.stream.end();
    }

    /// Says the last of TLS and then nothing more, and reads what still comes without looking at it: a connection closed
    /// with something unread would take back what was said last, which is why it is closed.
    pub(super) fn finish(&self, within: Duration) {
        // Whoever does not take it now does not hear it.
        let _ = self.send(&mut VecDeque::new());
        self.stream.finish();
        let mut buffer = [0; 4096];
        for _ in 0..FINISH_READS {
            let ready = self.stream.readable(within).unwrap_or(false);
            if !ready || self.stream.read(&mut buffer).unwrap_or(0) == 0 {
                return;
            }
        }
    }

    /// Waits for bytes and adds the packets that became whole. One thread at a time.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        decoder: &mut Decoder,
        packets: &mut Vec<Packet>,
    ) -> Result<Received, ReceiveError> {
        let count = self.stream.read(buffer)?;
        if count == 0 {
            return Ok(Received { end: true, send: false });
        }
        let mut bytes = &buffer[..count];
        let Some(tls) = &self.tls else {
            decode(&mut bytes, decoder, packets)?;
            return Ok(Received { end: false, send: false });
        };
        let mut tls = tls.lock();
        let mut end = false;
        while !bytes.is_empty() && !end {
            if tls.read_tls(&mut bytes)? == 0 {
                // It was told before that nothing more comes.
                end = true;
            }
            let state = tls.process_new_packets()?;
            end |= state.peer_has_closed();
            let mut reader = tls.reader();
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let mut plain = reader.fill_buf()?;
                let count = plain.len();
                decode(&mut plain, decoder, packets)?;
                reader.consume(count);
                left -= count;
            }
        }
        Ok(Received { end, send: tls.wants_write() })
    }
}

fn decode(
    bytes: &mut &[u8],
    decoder: &mut Decoder,
    packets: &mut Vec<Packet>,
) -> Result<(), ReceiveError> {
    while let Some(packet) = decoder.take(bytes)? {
        packets.push(packet);
    }
    Ok(())
}

/// The socket as rustls writes to it.
struct Now<'a>(&'a dyn Stream);

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error(transparent)]
    Stream(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Packet(#[from] crate::wire::packet::BadPacket),
}

impl ReceiveError {
    /// On a connection that was in use.
    pub(super) fn closed(&self, address: &str) -> NetError {
        NetError::Closed(format!("the connection with {address} broke: {self}"))
    }
}
