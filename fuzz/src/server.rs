use psrp::Command;

use crate::wire::{Wire, steps};

/// The server with a client beside which somebody speaks. Each answer can be read and answers what was asked, and there are no more shells than allowed.
///
/// Steps: `S` is a request, `{MESSAGE}`, `{SHELL}` and `{PIPELINE}` in it are ids; `M` and `P` are messages to the pipeline or the pool and `C` one that a new
/// command begins with, its type in eight hexadecimal digits, then its CLIXML; `+` has the client start a command of this name; `.` lets the server run it with
/// this output, `x` stops it, `c` closes the shell.
pub fn server(input: &[u8]) {
    let mut wire = Wire::new(false);
    for (step, rest) in steps(input) {
        match step {
            b'S' => wire.ask_with(rest),
            b'M' => wire.tell_server(true, rest),
            b'P' => wire.tell_server(false, rest),
            b'C' => wire.command_server(rest),
            b'+' => wire.start(Command::new(&String::from_utf8_lossy(rest))),
            b'.' => wire.run(&String::from_utf8_lossy(rest)),
            b'x' => wire.stop(),
            b'c' => wire.close(),
            _ => {}
        }
        wire.settle();
    }
}
