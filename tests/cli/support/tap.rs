//! What a client says to a server, and what it is to hear.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What a client hears that is refused.
const REFUSAL: &str =
    r#"{"meta": {"result_code": 500, "result_subcode": 100, "result_msg": "General data error"}, "data": {}}"#;

/// Stands between clients and a server, passes everything on and keeps what the clients say. Calls can be held or refused.
/// It lives as long as the test's process.
pub(crate) struct Tap {
    address: String,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    said: Vec<u8>,
    /// Calls with this in their path wait.
    held: Option<String>,
    /// How many wait now.
    waiting: usize,
    /// How many of them may go on.
    passes: usize,
    /// So many calls with this in their path are refused.
    refused: Option<(String, usize)>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as the call is held.
    fn hold(&self, path: &str) {
        let mut state = self.state();
        let held = |state: &State| state.held.as_ref().is_some_and(|it| path.contains(it.as_str()));
        if held(&state) {
            state.waiting += 1;
            while held(&state) && state.passes == 0 {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.passes = state.passes.saturating_sub(1);
            state.waiting -= 1;
        }
    }

    /// Whether the call is refused; it counts.
    fn refuses(&self, path: &str) -> bool {
        match &mut self.state().refused {
            Some((part, count)) if *count > 0 && path.contains(part.as_str()) => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }
}

impl Tap {
    /// One before the server at an address, `http://host:port`.
    pub(crate) fn before(server: &str) -> Self {
        Self::before_at("127.0.0.1", server)
    }

    /// The same at another address of this machine.
    pub(crate) fn before_at(own: &str, server: &str) -> Self {
        let listener = TcpListener::bind((own, 0)).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let gate = Arc::new(Gate::default());
        let (to, own) = (server.trim_start_matches("http://").trim_end_matches('/').to_owned(), Arc::clone(&gate));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&to) else { continue };
                let (from, back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let gate = Arc::clone(&own);
                thread::spawn(move || pass(from, server, Some(&gate)));
                thread::spawn(move || pass(back, client, None));
            }
        });
        Self { address, gate }
    }

    /// Where clients find it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether somebody said this.
    pub(crate) fn heard(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.gate.state().said).contains(text)
    }

    /// Holds calls with this in their path until [`Self::release`].
    pub(crate) fn hold(&self, part: &str) {
        self.gate.state().held = Some(part.to_owned());
    }

    /// Whether a call is held now.
    pub(crate) fn holds(&self) -> bool {
        let state = self.gate.state();
        state.waiting > state.passes
    }

    /// Lets one of them go on.
    pub(crate) fn pass_one(&self) {
        self.gate.state().passes = 1;
        self.gate.changed.notify_all();
    }

    /// Lets go of what is held.
    pub(crate) fn release(&self) {
        {
            let mut state = self.gate.state();
            (state.held, state.passes) = (None, 0);
        }
        self.gate.changed.notify_all();
    }

    /// Answers the next calls with this in their path with an error of the server.
    pub(crate) fn refuse(&self, part: &str, count: usize) {
        self.gate.state().refused = Some((part.to_owned(), count));
    }

    /// How many calls are still to be refused.
    pub(crate) fn to_refuse(&self) -> usize {
        self.gate.state().refused.as_ref().map_or(0, |it| it.1)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, gate: Option<&Gate>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer) {
        if let Some(gate) = gate {
            gate.state().said.extend_from_slice(&buffer[..size]);
            if let Some(path) = path(&buffer[..size]) {
                gate.hold(&path);
                if gate.refuses(&path) {
                    refuse(&mut from, &mut buffer);
                    break;
                }
            }
        }
        if to.write_all(&buffer[..size]).is_err() {
            break;
        }
    }
    // Either side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}

/// The path of the call that begins here.
fn path(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|it| *it == b'\r').next()?;
    let mut words = line.split(|it| *it == b' ');
    let (method, path) = (words.next()?, words.next()?);
    matches!(method, b"GET" | b"POST" | b"PUT").then(|| String::from_utf8_lossy(path).into_owned())
}

/// Answers in the server's place, and hears the client out, whose answer would be lost with the connection otherwise.
fn refuse(client: &mut TcpStream, buffer: &mut [u8]) {
    let length = REFUSAL.len();
    let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close";
    let _ = client.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n{REFUSAL}").as_bytes());
    let _ = client.shutdown(Shutdown::Write);
    while let Ok(1..) = client.read(buffer) {}
}
