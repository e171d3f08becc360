//! A lean HTTP client: what it takes of the machine is missing to those that are measured.

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A connection that is kept alive.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// The part of an answer that counts here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Connection {
    pub(crate) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(64 * 1024) })
    }

    /// Sends a request and reads its answer to the end.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.received.clear();
        let head = loop {
            self.receive().await?;
            if let Some(end) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let (status, length) = parse(&self.received[..head])?;
        while self.received.len() < head + length {
            self.receive().await?;
        }
        ensure!(self.received.len() == head + length, "more came than was announced");
        Ok(Answer { status, body: &self.received[head..] })
    }

    /// The body of an answer that must be the wanted one.
    pub(crate) async fn expect(&mut self, request: &[u8], status: u16) -> anyhow::Result<&[u8]> {
        let answer = self.exchange(request).await?;
        if answer.status != status {
            bail!("{} in place of {status}: {}", answer.status, String::from_utf8_lossy(answer.body));
        }
        Ok(answer.body)
    }

    async fn receive(&mut self) -> anyhow::Result<()> {
        ensure!(self.stream.read_buf(&mut self.received).await? > 0, "the server has closed the connection");
        Ok(())
    }
}

/// Status and length of the body.
fn parse(head: &[u8]) -> anyhow::Result<(u16, usize)> {
    let head = std::str::from_utf8(head)?;
    let status = head.get(9..12).context("no status")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
    });
    Ok((status, length.context("no Content-Length")??))
}

/// A GET with a bearer token.
pub(crate) fn get(path: &str, token: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes()
}

/// A POST of JSON with a bearer token and more headers, each with its line end.
pub(crate) fn post(path: &str, token: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_status_and_length() {
        let head = b"HTTP/1.1 202 Accepted\r\ncontent-length: 17\r\nx: y\r\n\r\n";
        assert_eq!(parse(head).unwrap(), (202, 17));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
