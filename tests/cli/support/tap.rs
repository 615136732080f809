//! What a client says to a server.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Stands between clients and a server, passes everything on and keeps what the clients say. It lives as long as the
/// test's process.
pub(crate) struct Tap {
    address: String,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    /// One before the server at an address, `http://host:port`.
    pub(crate) fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let said = Arc::new(Mutex::new(Vec::new()));
        let (to, heard) = (server.trim_start_matches("http://").trim_end_matches('/').to_owned(), Arc::clone(&said));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&to) else { continue };
                let (from, back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let heard = Arc::clone(&heard);
                thread::spawn(move || pass(from, server, Some(&*heard)));
                thread::spawn(move || pass(back, client, None));
            }
        });
        Self { address, said }
    }

    /// Where clients find it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether somebody said this.
    pub(crate) fn heard(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.said.lock().unwrap()).contains(text)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, keep: Option<&Mutex<Vec<u8>>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer) {
        if let Some(keep) = keep {
            keep.lock().unwrap().extend_from_slice(&buffer[..size]);
        }
        if to.write_all(&buffer[..size]).is_err() {
            break;
        }
    }
    // Either side may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}
