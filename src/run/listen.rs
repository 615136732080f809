//! A container's output, heard once and whole: as it comes, and what was missed from the engine's log after the end.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::engine::{LogChunk, Output};

/// How long a piece of the output is waited for after the container's end: an engine that never closes the stream must
/// not keep us.
const TAIL: Duration = Duration::from_secs(10);

/// Hears a container's output.
pub(super) struct Listening {
    chunks: Output,
    ended: bool,
    whole: bool,
    /// Bytes heard of standard output and error.
    heard: [usize; 2],
}

impl Listening {
    /// Hears what comes directly from the container, since before its start.
    pub(super) fn directly(chunks: Output) -> Self {
        Self { chunks, ended: false, whole: true, heard: [0; 2] }
    }

    /// Hears what comes by way of the engine's log, which may lack the end.
    pub(super) fn by_log(chunks: Output) -> Self {
        Self { whole: false, ..Self::directly(chunks) }
    }

    /// The next piece; `None` when no more comes this way. Nothing is lost when it is dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<LogChunk> {
        if self.ended {
            return None;
        }
        match self.chunks.next().await {
            Some(Ok(chunk)) => {
                let (stream, bytes) = parts(&chunk);
                self.heard[stream] += bytes.len();
                Some(chunk)
            }
            broken_or_done => {
                self.whole &= broken_or_done.is_none();
                self.ended = true;
                None
            }
        }
    }

    /// Hands on what is left after the container's end, from `log` where it did not come by itself; tells whether all
    /// was heard.
    pub(super) async fn finish(mut self, log: impl FnOnce() -> Output, output: &mut impl FnMut(&LogChunk)) -> bool {
        loop {
            match timeout(TAIL, self.next()).await {
                Ok(Some(chunk)) => output(&chunk),
                Ok(None) => break,
                Err(_) => {
                    self.whole = false;
                    break;
                }
            }
        }
        self.whole || self.read_rest(log(), output).await
    }

    /// Hands on what a log has beyond what was heard.
    async fn read_rest(&self, mut log: Output, output: &mut impl FnMut(&LogChunk)) -> bool {
        let mut known = self.heard;
        loop {
            let chunk = match timeout(TAIL, log.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(None) => return true,
                Ok(Some(Err(_))) | Err(_) => return false,
            };
            let (stream, bytes) = parts(&chunk);
            let skipped = known[stream].min(bytes.len());
            known[stream] -= skipped;
            let rest = bytes.slice(skipped..);
            if !rest.is_empty() {
                output(&if stream == 0 { LogChunk::Out(rest) } else { LogChunk::Err(rest) });
            }
        }
    }
}

fn parts(chunk: &LogChunk) -> (usize, &bytes::Bytes) {
    match chunk {
        LogChunk::Out(bytes) => (0, bytes),
        LogChunk::Err(bytes) => (1, bytes),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;

    use super::*;
    use crate::engine::EngineError;

    fn output(chunks: Vec<Option<(char, &'static str)>>) -> Output {
        Box::pin(stream::iter(chunks.into_iter().map(|it| match it {
            Some(('o', text)) => Ok(LogChunk::Out(Bytes::from_static(text.as_bytes()))),
            Some((_, text)) => Ok(LogChunk::Err(Bytes::from_static(text.as_bytes()))),
            None => Err(EngineError::Endpoint { endpoint: "x".to_owned(), reason: "gone".to_owned() }),
        })))
    }

    fn heard(mut listening: Listening, log: Output) -> (String, bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut text = String::new();
            let mut keep = |chunk: &LogChunk| {
                let (stream, bytes) = parts(chunk);
                text.push_str(&format!("{stream}{} ", String::from_utf8_lossy(bytes)));
            };
            if let Some(chunk) = listening.next().await {
                keep(&chunk);
            }
            let whole = listening.finish(|| log, &mut keep).await;
            (text, whole)
        })
    }

    #[test]
    fn what_comes_directly_is_all_there_is() {
        let direct = output(vec![Some(('o', "a")), Some(('e', "b")), Some(('o', "c"))]);
        assert_eq!(heard(Listening::directly(direct), output(vec![None])), ("0a 1b 0c ".to_owned(), true));
    }

    #[test]
    fn what_was_missed_comes_from_the_log_and_nothing_comes_twice() {
        let log = || output(vec![Some(('o', "one\ntwo\n")), Some(('e', "bad\n")), Some(('o', "end"))]);
        let followed = || output(vec![Some(('o', "one\n")), Some(('e', "bad\n")), Some(('o', "two\n"))]);
        let whole = "0one\n 1bad\n 0two\n 0end ".to_owned();
        assert_eq!(heard(Listening::by_log(followed()), log()), (whole, true));
        let broken = output(vec![Some(('o', "one\nt")), None]);
        assert_eq!(heard(Listening::directly(broken), log()), ("0one\nt 0wo\n 1bad\n 0end ".to_owned(), true));
        let broken = output(vec![Some(('o', "one\n")), None]);
        assert_eq!(heard(Listening::directly(broken), output(vec![None])), ("0one\n ".to_owned(), false));
    }
}
