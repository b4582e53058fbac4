//! Streams of bytes in both directions: a socket, or memory between two threads of a test or a simulation.
//!
//! Reading waits, writing never does: who writes decides whether to wait. Not here: what the bytes mean, TLS.

use super::bounds::NOT_SENT_BYTES_MAX;
use parking_lot::Condvar;
use parking_lot::Mutex;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendFlags;
use rustix::net::Shutdown;
use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Bytes in both directions. One thread reads and one writes; any thread ends it.
pub trait Stream: Send + Sync {
    /// Waits for bytes. Zero: the other side ended.
    ///
    /// # Errors
    /// The connection broke.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Waits at most so long until `read` would not wait. Whether it would not.
    ///
    /// # Errors
    /// There is nothing to wait for.
    fn readable(&self, within: Duration) -> io::Result<bool>;

    /// Takes of the parts what there is room for now.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room; else the connection broke.
    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Waits at most so long until there is room. Whether there is, or `write` will say what is wrong.
    ///
    /// # Errors
    /// There is nothing to wait for.
    fn writable(&self, within: Duration) -> io::Result<bool>;

    /// Nothing more will be written: the other side reads what was, and then the end.
    fn finish(&self);

    /// Ends both directions at once. Whoever waits in a call of this stream returns, on both sides.
    fn end(&self);
}

/// A connected socket of any kind that streams.
pub struct Socket(OwnedFd);

impl From<TcpStream> for Socket {
    /// It sends small packets at once, for nobody gains by the kernel waiting for more; and what is not sent waits here.
    fn from(stream: TcpStream) -> Socket {
        // It fails only on a connection that is broken already, which the first write will say.
        let _ = stream.set_nodelay(true);
        if let Err(error) = keep_not_sent_few(&stream) {
            tracing::debug!(%error, "what is urgent may wait for what the kernel has taken before it");
        }
        Socket(stream.into())
    }
}

/// As the kernel has it of `tcp_notsent_lowat`: what was sent and is not acknowledged does not count.
fn keep_not_sent_few(stream: &TcpStream) -> io::Result<()> {
    let most: libc::c_int = NOT_SENT_BYTES_MAX;
    #[expect(unsafe_code, reason = "no crate that is used here knows this option")]
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the kernel reads an int of the size that it is told, which lives.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const most).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Socket {
        Socket(stream.into())
    }
}

impl Socket {
    fn poll(&self, flags: PollFlags, within: Duration) -> io::Result<bool> {
        let within = Timespec {
            tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: within.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut [PollFd::new(&self.0, flags)], Some(&within)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Stream for Socket {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::net::recv(&self.0, &mut *buffer, RecvFlags::empty()) {
                Ok((_, count)) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn readable(&self, within: Duration) -> io::Result<bool> {
        self.poll(PollFlags::IN, within)
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            let mut nothing = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.0, parts, &mut nothing, flags) {
                Err(Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
    }

    fn writable(&self, within: Duration) -> io::Result<bool> {
        self.poll(PollFlags::OUT, within)
    }

    fn finish(&self) {
        // It fails where the connection is gone already, which is as good.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }

    fn end(&self) {
        // As above.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}

/// One side of a connection in memory.
pub struct Memory {
    from: Arc<Pipe>,
    to: Arc<Pipe>,
}

struct Pipe {
    state: Mutex<Flow>,
    changed: Condvar,
    /// Bytes that may be under way.
    room: usize,
}

#[derive(Default)]
struct Flow {
    bytes: VecDeque<u8>,
    ended: bool,
}

impl Memory {
    /// Both sides of a connection on which at most `room` bytes are under way in each direction.
    pub fn pair(room: usize) -> (Memory, Memory) {
        let pipe = || {
            Arc::new(Pipe { state: Mutex::default(), changed: Condvar::new(), room: room.max(1) })
        };
        let (there, back) = (pipe(), pipe());
        let one = Memory { from: Arc::clone(&back), to: Arc::clone(&there) };
        (one, Memory { from: there, to: back })
    }
}

impl Pipe {
    fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }
}

impl Stream for Memory {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut flow = self.from.state.lock();
        while flow.bytes.is_empty() && !flow.ended {
            self.from.changed.wait(&mut flow);
        }
        let count = buffer.len().min(flow.bytes.len());
        for (to, byte) in buffer.iter_mut().zip(flow.bytes.drain(..count)) {
            *to = byte;
        }
        self.from.changed.notify_all();
        Ok(count)
    }

    fn readable(&self, within: Duration) -> io::Result<bool> {
        let mut flow = self.from.state.lock();
        if flow.bytes.is_empty() && !flow.ended {
            self.from.changed.wait_for(&mut flow, within);
        }
        Ok(!flow.bytes.is_empty() || flow.ended)
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut flow = self.to.state.lock();
        if flow.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut count = 0;
        for part in parts {
            let fits = part.len().min(self.to.room - flow.bytes.len());
            flow.bytes.extend(&part[..fits]);
            count += fits;
        }
        if count == 0 && parts.iter().any(|part| !part.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.to.changed.notify_all();
        Ok(count)
    }

    fn writable(&self, within: Duration) -> io::Result<bool> {
        let mut flow = self.to.state.lock();
        let full = |flow: &Flow| flow.bytes.len() >= self.to.room && !flow.ended;
        if full(&flow) {
            self.to.changed.wait_for(&mut flow, within);
        }
        Ok(!full(&flow))
    }

    fn finish(&self) {
        self.to.end();
    }

    fn end(&self) {
        self.from.end();
        self.to.end();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Bytes that a socket takes for a peer that reads nothing.
    #[test]
    fn what_is_not_sent_is_not_taken_by_the_kernel() {
        const WINDOW: usize = 64 << 10;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Whoever is accepted has it from the listener.
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, WINDOW).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_there, _) = listener.accept().unwrap();
        let socket = Socket::from(stream);
        let most = NOT_SENT_BYTES_MAX as usize;
        let (piece, mut taken) = (vec![0; most], 0);
        // Until it has no room, and gets none: what it had taken is sent as far as it can be.
        loop {
            match socket.write(&[IoSlice::new(&piece)]) {
                Ok(count) => taken += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    if !socket.writable(Duration::from_millis(200)).unwrap() {
                        break;
                    }
                }
            }
        }
        assert!(taken >= most, "{taken}");
        // The kernel counts by pieces of its own, of up to 64 KiB each.
        assert!(taken <= most + 4 * WINDOW, "{taken}");
    }
}
