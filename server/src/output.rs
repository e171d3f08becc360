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

/// What there is to choose from.
pub(crate) fn listed(names: impl IntoIterator<Item = impl ToString>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| name.to_string()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// An error with its causes. Errors of libraries often end with what their cause says: that is said once.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| {
        if said.is_empty() {
            cause
        } else if said.ends_with(&cause) {
            said
        } else {
            format!("{said}: {cause}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cause_that_its_error_has_told_is_not_told_again() {
        let error = db::Db::open("postgres://localhost:99999/rekey").await.unwrap_err();
        let told = causes(&anyhow::Error::new(error).context("cannot open the PostgreSQL database"));
        assert_eq!(told.matches("invalid port number").count(), 1, "{told}");
        assert!(told.starts_with("cannot open the PostgreSQL database: "), "{told}");
    }

    #[test]
    fn nothing_to_choose_from_is_said_too() {
        assert_eq!(listed(["chat", "mail"]), "chat, mail");
        assert_eq!(listed(Vec::<String>::new()), "none");
    }
}
