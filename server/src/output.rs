//! What the commands print for people. A reader that has gone away, as in `rekey openapi | head`, is no error.

use std::{fmt, io::Write as _};

/// Prints a line to standard output.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// `println!` for readers that may go away.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
pub(crate) use say;
