use psrp::{Command, Secret};

use crate::wire::{Wire, steps};

/// The client with a server behind which somebody speaks. A pipeline ends once and only if it was started, what comes belongs to it, and after an error nothing
/// more is asked.
///
/// Steps: `S`, `F` and `H` answer the next request with the body that follows and status 200, 500 or 503; `M` and `P` answer a Receive with a message of
/// the pipeline or the pool, its type in eight hexadecimal digits, then its CLIXML; `+` starts a command of this name, `$` one with this secret, but only if the
/// input begins with it; `.` lets the server run it with this output, `x` stops it, `c` closes the pool.
pub fn client(input: &[u8]) {
    let makes_keys = input.starts_with(b"$");
    let mut wire = Wire::new(makes_keys);
    for (step, rest) in steps(input) {
        match step {
            b'S' => wire.answer_with(200, rest),
            b'F' => wire.answer_with(500, rest),
            b'H' => wire.answer_with(503, rest),
            b'M' => wire.tell_client(true, rest),
            b'P' => wire.tell_client(false, rest),
            b'+' => wire.start(Command::new(&String::from_utf8_lossy(rest))),
            b'$' if makes_keys => {
                let secret = Secret::new(String::from_utf8_lossy(rest));
                wire.start(Command::new("Get-X").with_secret("Password", secret));
            }
            b'.' => {
                wire.settle();
                wire.run(&String::from_utf8_lossy(rest));
            }
            b'x' => wire.stop(),
            b'c' => wire.close(),
            _ => {}
        }
    }
    wire.settle();
    wire.close();
    wire.settle();
}
