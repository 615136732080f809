//! Asking again: connections that fail, servers that are overloaded or restarting.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode, header};
use url::Url;

use super::error::{HttpError, shown};

/// Bytes of an error's text that are read.
pub(crate) const MESSAGE: usize = 64 << 10;

/// How often and how patiently to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How many times to ask in all.
    pub attempts: u32,
    /// The pause after the first failure; each further one is twice as long.
    pub pause: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// Whether to ask again where the server may have taken the request already.
    pub heard: bool,
}

impl Retry {
    /// Asks once.
    pub const NONE: Self = Self { attempts: 1, pause: Duration::ZERO, longest: Duration::ZERO, heard: true };
    /// For a command somebody waits for: five times within about five seconds.
    pub const SHORT: Self =
        Self { attempts: 5, pause: Duration::from_millis(300), longest: Duration::from_secs(3), heard: true };
    /// For work that must get through: twenty times, about half an hour.
    pub const LONG: Self =
        Self { attempts: 20, pause: Duration::from_millis(500), longest: Duration::from_secs(120), heard: true };

    /// The same patience for a request that must not be taken twice: it is repeated only where the connection failed or
    /// the server says that it is overloaded.
    #[must_use]
    pub const fn only_unheard(self) -> Self {
        Self { heard: false, ..self }
    }

    /// The pause after the `failures`-th failure, the first being 1.
    #[must_use]
    pub fn pause_after(&self, failures: u32) -> Duration {
        let doubled = self.pause.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.longest)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::SHORT
    }
}

/// Sends what `request` makes, again on connection errors, on 429 and on 5xx except 501. An answer with any other
/// status, and the last one, is returned as it is: see [`expect_success`].
///
/// # Errors
/// [`HttpError::Unreachable`] when no answer came at the last attempt.
pub async fn send(retry: &Retry, mut request: impl FnMut() -> RequestBuilder) -> Result<Response, HttpError> {
    let mut failures = 0;
    loop {
        let (client, request) = request().build_split();
        let request = request.map_err(|source| HttpError::from_reqwest(source, None))?;
        let url: Url = request.url().clone();
        let outcome = client.execute(request).await;
        failures += 1;
        let last = failures >= retry.attempts;
        let asked = match outcome {
            Ok(response) if last || !is_passing(response.status(), retry.heard) => return Ok(response),
            Ok(response) => retry_after(&response),
            Err(error) if last || error.is_builder() || error.is_redirect() || !(retry.heard || error.is_connect()) => {
                return Err(HttpError::from_reqwest(error, Some(&url)));
            }
            Err(_) => None,
        };
        let pause = retry.pause_after(failures);
        tokio::time::sleep(asked.map_or(pause, |it| it.max(pause).min(retry.longest))).await;
    }
}

/// The answer, if its status says success.
///
/// # Errors
/// [`HttpError::Status`] with the first line of what the server said.
pub async fn expect_success(response: Response) -> Result<Response, HttpError> {
    if response.status().is_success() {
        return Ok(response);
    }
    let (url, status) = (shown(response.url()), response.status());
    let text = String::from_utf8_lossy(&beginning(response, MESSAGE).await).into_owned();
    let message = text.lines().map(str::trim).find(|it| !it.is_empty() && !it.starts_with('<'));
    let message = message.map(|it| crate::secret::mask_userinfo(&it.chars().take(300).collect::<String>()));
    Err(HttpError::Status { url, status, message })
}

/// The first bytes of an answer, up to about `most`: what an error says is never needed whole, and may have no end.
pub(crate) async fn beginning(mut response: Response, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() >= most {
            break;
        }
    }
    bytes
}

fn is_passing(status: StatusCode, heard: bool) -> bool {
    let refused = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    refused || (heard && status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u64> = (1..7).map(|it| Retry::LONG.pause_after(it).as_millis() as u64).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000]);
        assert_eq!(Retry::LONG.pause_after(4_000_000_000), Duration::from_secs(120));
    }

    #[tokio::test]
    async fn an_overloaded_server_is_asked_again_and_a_refusal_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for answer in ["503 Busy", "429 Slow", "500 Oops", "200 OK", "404 Nope"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).unwrap();
                write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").unwrap();
            }
        });
        let client = super::super::client(&super::super::Options::default()).unwrap();
        let retry =
            Retry { attempts: 5, pause: Duration::from_millis(1), longest: Duration::from_millis(5), heard: true };
        let ask = || client.get(format!("http://{address}/"));
        assert_eq!(send(&retry, ask).await.unwrap().text().await.unwrap(), "hi");
        let error = expect_success(send(&retry, ask).await.unwrap()).await.unwrap_err();
        assert_eq!(error.status(), Some(StatusCode::NOT_FOUND));
        assert_eq!(error.to_string(), format!("`http://{address}/` answers 404 Not Found: hi"));
        server.join().unwrap();
    }
}
