//! A link that fails as the test decides: a TCP proxy on loopback between devices and the server.
//!
//! It is closed and opened at will ([`Proxy::close`]), or fails once, at a byte; or is a [`Weather`] all
//! the time.
//!
//! Bytes are counted per direction from [`Proxy::arm`] on, over all connections. When one direction
//! has carried as many as a [`Strike`] names, its fault befalls the connection that carries them, and
//! no later one. It knows nothing of what it carries.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From a device to the server.
    Up,
    /// From the server to a device.
    Down,
}

impl Way {
    fn back(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both sides see it end.
    Cut,
    /// It carries nothing more in either direction, and neither side is told.
    Stall,
    /// What goes this way vanishes from here on, and neither side is told.
    OneWay,
    /// All that it carries from here on, both ways, comes this much later.
    Delay(Duration),
}

/// What the path of every connection is like, as whoever uses TCP feels it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// How long everything takes, each way.
    pub latency: Duration,
    /// Of a thousand segments how many get lost, each way. TCP sends them again, and what comes behind
    /// waits for them: for two latencies and a fifth of a second, the least that Linux waits, and
    /// twice as long each further time.
    pub lost_per_mille: u32,
}

/// Bytes of a segment.
const SEGMENT: usize = 1460;
/// Portions on their way at a time, each of at most 4 KiB; more than the windows of one link let out.
const UNDER_WAY: usize = 1024;
/// The least that a sender waits before it sends a segment again.
const RESENT_AFTER: Duration = Duration::from_millis(200);

impl Weather {
    /// How long so many bytes take, by a sequence of chances.
    fn takes(&self, bytes: usize, chances: &mut u64) -> Duration {
        let mut takes = self.latency;
        for _ in 0..bytes.div_ceil(SEGMENT) {
            let mut again = 2 * self.latency + RESENT_AFTER;
            while chance(chances) % 1000 < u64::from(self.lost_per_mille) {
                takes += again;
                again *= 2;
            }
        }
        takes
    }
}

/// The next of a sequence of chances (xorshift, Marsaglia 2003).
fn chance(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 16
}

/// When what happens.
pub struct Strike {
    /// Which direction is counted.
    pub way: Way,
    /// How many bytes still pass that way.
    pub at: u64,
    /// What befalls the connection then.
    pub fault: Fault,
    /// Done once those bytes have passed, before the fault.
    pub first: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Strike {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Strike")
            .field("way", &self.way)
            .field("at", &self.at)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl Strike {
    /// A fault after so many bytes.
    pub fn new(way: Way, at: u64, fault: Fault) -> Self {
        let first = Box::new(|| {});
        Self {
            way,
            at,
            fault,
            first,
        }
    }
}

/// Bytes that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// From a device to the server.
    pub up: u64,
    /// From the server to a device.
    pub down: u64,
}

impl Passed {
    /// Those that went one way.
    pub fn of(self, way: Way) -> u64 {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }
}

/// The proxy; every connection through it ends when its last clone goes.
#[derive(Clone, Debug)]
pub struct Proxy {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Proxy {
    /// Listens on a free port; until it has a target, connections are ended at once.
    ///
    /// # Errors
    /// If there is no port to listen on.
    pub fn new() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if accepting.lock().is_over {
                    return;
                }
                Shared::carry(&accepting, stream);
            }
        });
        let running = Arc::new(Running { shared, address });
        Ok(Self { running })
    }

    /// Where devices dial, as a multiaddr.
    pub fn address(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}", self.running.address.port())
    }

    /// Carries further connections to this multiaddr.
    ///
    /// # Panics
    /// If it is not one of a TCP port.
    pub fn lead_to(&self, address: &str) {
        let port = address.split('/').nth(4).and_then(|port| port.parse().ok());
        let port: u16 = port.expect("the address is /ip4/…/tcp/<port>");
        self.running.shared.lock().target = Some(SocketAddr::from(([127, 0, 0, 1], port)));
    }

    /// What further connections are like.
    pub fn set_weather(&self, weather: Weather) {
        self.running.shared.lock().weather = Some(weather);
    }

    /// Counts from zero, with this strike to come or none; says when it has struck.
    pub fn arm(&self, strike: Option<Strike>) -> Receiver<()> {
        // Bounded by the one word that a strike says.
        let (struck, told) = channel();
        let mut state = self.running.shared.lock();
        state.passed = Passed::default();
        state.strike = strike.map(|strike| (strike, struck));
        told
    }

    /// What has passed since it was armed.
    pub fn passed(&self) -> Passed {
        self.running.shared.lock().passed
    }

    /// How many connections were accepted in all.
    pub fn connections(&self) -> usize {
        self.running.shared.lock().connections.len()
    }

    /// Ends every connection, and every further one at once until [`Self::open`].
    pub fn close(&self) {
        let mut state = self.running.shared.lock();
        state.is_closed = true;
        for connection in &state.connections {
            connection.end();
        }
    }

    /// Carries connections again.
    pub fn open(&self) {
        self.running.shared.lock().is_closed = false;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_over = true;
        for connection in &state.connections {
            connection.end();
        }
        drop(state);
        self.shared.changed.notify_all();
        // Wakes whoever accepts; it fails only if that has ended.
        drop(TcpStream::connect(self.address));
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The end of the proxy.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    target: Option<SocketAddr>,
    passed: Passed,
    strike: Option<(Strike, Sender<()>)>,
    connections: Vec<Arc<Connection>>,
    weather: Option<Weather>,
    is_closed: bool,
    is_over: bool,
}

/// The two sockets of one connection and what has befallen it.
#[derive(Debug)]
struct Connection {
    device: TcpStream,
    server: TcpStream,
    fault: Mutex<Option<(Fault, Way)>>,
}

/// Why nothing more is carried one way.
enum Ended {
    Sender,
    Receiver,
    /// The proxy carries no more.
    Neither,
}

impl Connection {
    fn fault(&self) -> Option<(Fault, Way)> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn befall(&self, fault: Fault, way: Way) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some((fault, way));
    }

    fn end(&self) {
        // They fail if the other side has ended it already.
        drop(self.device.shutdown(Shutdown::Both));
        drop(self.server.shutdown(Shutdown::Both));
    }

    /// Ends the one side because the other has ended, if the word of that can still pass.
    fn tell(&self, ended: Ended, way: Way) {
        let (from, to) = self.sockets(way);
        let (told, goes) = match ended {
            Ended::Sender => (to, way),
            Ended::Receiver => (from, way.back()),
            Ended::Neither => return,
        };
        let is_lost = match self.fault() {
            Some((Fault::Stall, _)) => true,
            Some((Fault::OneWay, lost)) => lost == goes,
            _ => false,
        };
        if !is_lost {
            // It fails if that side has ended it already.
            drop(told.shutdown(Shutdown::Both));
        }
    }

    /// The socket that bytes going this way come from, and the one they go to.
    fn sockets(&self, way: Way) -> (&TcpStream, &TcpStream) {
        match way {
            Way::Up => (&self.device, &self.server),
            Way::Down => (&self.server, &self.device),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a device's connection to the server, by two threads. Where no server listens, the
    /// device's connection ends.
    fn carry(this: &Arc<Self>, device: TcpStream) {
        let target = {
            let state = this.lock();
            state.target.filter(|_| !state.is_closed)
        };
        let Some(Ok(server)) = target.map(TcpStream::connect) else {
            return;
        };
        for socket in [&device, &server] {
            // It fails if the connection has ended already.
            socket.set_nodelay(true).ok();
        }
        let connection = Arc::new(Connection {
            device,
            server,
            fault: Mutex::new(None),
        });
        {
            let mut state = this.lock();
            if state.is_closed {
                return connection.end();
            }
            state.connections.push(connection.clone());
        }
        let (weather, number) = {
            let state = this.lock();
            (state.weather, state.connections.len() as u64)
        };
        for way in [Way::Up, Way::Down] {
            let path = weather.map(|weather| {
                let (path, under_way) = sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
                let (this, connection) = (this.clone(), connection.clone());
                thread::spawn(move || this.deliver(&connection, way, &under_way));
                Path {
                    weather,
                    // Far from zero, so that the first chances are as good as any.
                    chances: (2 * number + u64::from(way == Way::Up) + 1)
                        .wrapping_mul(0x9e37_79b9_7f4a_7c15),
                    free_at: Instant::now(),
                    under_way: path,
                }
            });
            let (this, connection) = (this.clone(), connection.clone());
            thread::spawn(move || {
                let is_far = path.is_some();
                match this.pump(&connection, way, path) {
                    // That goes the same long way.
                    Ended::Sender if is_far => {}
                    ended => connection.tell(ended, way),
                }
            });
        }
    }

    /// Waits so long, or until the proxy ends.
    fn wait(&self, time: Duration) {
        let state = self.lock();
        let over = self
            .changed
            .wait_timeout_while(state, time, |state| !state.is_over);
        drop(over);
    }

    /// Writes what is under way when it arrives, until nothing more comes or the receiver has ended.
    fn deliver(&self, connection: &Connection, way: Way, under_way: &Receiver<(Instant, Vec<u8>)>) {
        let mut to = connection.sockets(way).1;
        for (at, bytes) in under_way {
            self.wait(at.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return connection.tell(Ended::Receiver, way);
            }
        }
        connection.tell(Ended::Sender, way);
    }

    fn pump(&self, connection: &Connection, way: Way, mut path: Option<Path>) -> Ended {
        let mut from = connection.sockets(way).0;
        let mut buffer = [0; 4096];
        loop {
            let bytes = match from.read(&mut buffer) {
                Ok(0) => return Ended::Sender,
                Ok(count) => &buffer[..count],
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Ended::Sender,
            };
            let (before, strike) = self.count(way, bytes.len());
            let (before, after) = bytes.split_at(before);
            if let Some(ended) = self.pass(connection, way, before, &mut path) {
                return ended;
            }
            if let Some((strike, struck)) = strike {
                (strike.first)();
                connection.befall(strike.fault, way);
                if strike.fault == Fault::Cut {
                    connection.end();
                }
                // Nobody listens any more if the test has gone on.
                struck.send(()).ok();
            }
            if let Some(ended) = self.pass(connection, way, after, &mut path) {
                return ended;
            }
        }
    }

    /// Counts bytes about to pass; how many of them do before a strike, and the strike.
    fn count(&self, way: Way, bytes: usize) -> (usize, Option<(Strike, Sender<()>)>) {
        let mut state = self.lock();
        let passed = state.passed.of(way);
        match way {
            Way::Up => state.passed.up += bytes as u64,
            Way::Down => state.passed.down += bytes as u64,
        }
        let is_due = |(strike, _): &mut (Strike, Sender<()>)| {
            strike.way == way && strike.at <= passed + bytes as u64
        };
        let strike = state.strike.take_if(is_due);
        let before = strike.as_ref().map_or(bytes, |(strike, _)| {
            // It is due within these bytes.
            usize::try_from(strike.at.saturating_sub(passed)).unwrap_or(bytes)
        });
        (before, strike)
    }

    /// Passes bytes on as far as the connection's fault allows; why no more is carried, if so.
    fn pass(
        &self,
        connection: &Connection,
        way: Way,
        bytes: &[u8],
        path: &mut Option<Path>,
    ) -> Option<Ended> {
        match connection.fault() {
            Some((Fault::Cut | Fault::Stall, _)) => return Some(Ended::Neither),
            Some((Fault::OneWay, lost)) if lost == way => return None,
            Some((Fault::Delay(by), _)) => self.wait(by),
            Some((Fault::OneWay, _)) | None => {}
        }
        if let Some(path) = path {
            return path.carry(bytes).is_err().then_some(Ended::Receiver);
        }
        let mut to = connection.sockets(way).1;
        to.write_all(bytes).is_err().then_some(Ended::Receiver)
    }
}

/// One way of a connection that is far from ideal.
struct Path {
    weather: Weather,
    chances: u64,
    /// When what was sent last arrives: nothing overtakes.
    free_at: Instant,
    under_way: SyncSender<(Instant, Vec<u8>)>,
}

impl Path {
    /// Sends bytes on their way; an error if nobody is at its end any more.
    fn carry(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let takes = self.weather.takes(bytes.len(), &mut self.chances);
        self.free_at = self.free_at.max(Instant::now() + takes);
        let sent = self.under_way.send((self.free_at, bytes.to_vec()));
        sent.map_err(|_| Gone)
    }
}

/// Nobody takes what is sent.
struct Gone;
