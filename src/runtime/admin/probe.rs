//! `crabcache health [ADDRESS]`: asks a server on this machine whether it takes requests, for images without a shell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 4096;
const USAGE: &str = "crabcache health [ADDRESS:PORT]: whether the server whose admin HTTP is there takes requests";

pub fn run(args: &[String]) -> ExitCode {
    let address = match args {
        [] => "127.0.0.1:9090",
        [address] if !address.starts_with('-') => address,
        _ => {
            eprintln!("{USAGE} (127.0.0.1:9090 unless given)");
            return ExitCode::from(if args.iter().any(|arg| arg == "--help") { 0 } else { 2 });
        }
    };
    let Ok(address) = address.parse::<SocketAddr>() else {
        eprintln!("{address}: expected an address and a port, such as 127.0.0.1:9090");
        return ExitCode::from(2);
    };
    match ask(address) {
        Ok((true, answer)) => {
            print(&answer);
            ExitCode::SUCCESS
        }
        Ok((false, answer)) => {
            print(&answer);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{address} does not answer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(answer: &str) {
    // Whoever closes the pipe has seen enough.
    let _ = writeln!(std::io::stdout(), "{}", answer.trim_end());
}

/// Whether /readyz is content, and what it says.
fn ask(address: SocketAddr) -> std::io::Result<(bool, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Ok((answer.starts_with("HTTP/1.1 200 "), body))
}
