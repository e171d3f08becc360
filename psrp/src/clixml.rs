//! CLIXML: the values that PowerShell sends (MS-PSRP 2.2.5).

mod decode;
mod encode;
mod text;
mod value;

pub use decode::{DecodeError, decode};
pub(crate) use decode::{Size, decode_among};
pub use encode::{EncodeError, encode};
pub use value::{Base, Object, Secret, Value};

/// Elements within elements. PowerShell's own objects need about twenty.
const MAX_DEPTH: usize = 64;

#[cfg(test)]
mod tests;
