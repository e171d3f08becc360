//! CLIXML: the values that PowerShell sends (MS-PSRP 2.2.5).

mod value;

pub use value::{Base, Object, Secret, Value};
