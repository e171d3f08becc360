//! Messages: a header that says what for whom, and a value as CLIXML (MS-PSRP 2.2.1).

pub mod payload;

use std::fmt;

use uuid::Uuid;

/// One message, whole. [`crate::fragment`] cuts it to pieces that fit an envelope.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Who shall read it.
    pub destination: Destination,
    /// What it is about.
    pub kind: MessageType,
    /// The runspace pool (RPID).
    pub pool: Uuid,
    /// The pipeline (PID); `None` for what concerns the pool. All zeros on the wire mean the same.
    pub pipeline: Option<Uuid>,
    /// CLIXML in UTF-8, without byte order mark.
    pub data: Vec<u8>,
}

/// Who shall read a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// 1: whoever opened the pool.
    Client,
    /// 2: whoever runs the pipelines.
    Server,
}

/// What a message is about (MS-PSRP 2.2.1, the table of message types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// 0x00010002, both ways (MS-PSRP 2.2.2.1).
    SessionCapability,
    /// 0x00010004, to the server (2.2.2.2).
    InitRunspacePool,
    /// 0x00010005, to the server (2.2.2.3).
    PublicKey,
    /// 0x00010006, to the client (2.2.2.4).
    EncryptedSessionKey,
    /// 0x00010007, to the client (2.2.2.5).
    PublicKeyRequest,
    /// 0x00010008, to the server (2.2.2.28).
    ConnectRunspacePool,
    /// 0x00021002, to the server (2.2.2.6).
    SetMaxRunspaces,
    /// 0x00021003, to the server (2.2.2.7).
    SetMinRunspaces,
    /// 0x00021004, to the client (2.2.2.8).
    RunspaceAvailability,
    /// 0x00021005, to the client (2.2.2.9).
    RunspacePoolState,
    /// 0x00021006, to the server (2.2.2.10).
    CreatePipeline,
    /// 0x00021007, to the server (2.2.2.11).
    GetAvailableRunspaces,
    /// 0x00021008, to the client (2.2.2.12).
    UserEvent,
    /// 0x00021009, to the client (2.2.2.13).
    ApplicationPrivateData,
    /// 0x0002100A, to the server (2.2.2.14).
    GetCommandMetadata,
    /// 0x0002100B, to the client (2.2.2.29).
    RunspacePoolInitData,
    /// 0x0002100C, to the server (2.2.2.31).
    ResetRunspaceState,
    /// 0x00021100, to the client (2.2.2.15).
    RunspacePoolHostCall,
    /// 0x00021101, to the server (2.2.2.16).
    RunspacePoolHostResponse,
    /// 0x00041002, to the server (2.2.2.17).
    PipelineInput,
    /// 0x00041003, to the server (2.2.2.18).
    EndOfPipelineInput,
    /// 0x00041004, to the client (2.2.2.19).
    PipelineOutput,
    /// 0x00041005, to the client (2.2.2.20).
    ErrorRecord,
    /// 0x00041006, to the client (2.2.2.21).
    PipelineState,
    /// 0x00041007, to the client (2.2.2.22).
    DebugRecord,
    /// 0x00041008, to the client (2.2.2.23).
    VerboseRecord,
    /// 0x00041009, to the client (2.2.2.24).
    WarningRecord,
    /// 0x00041010, to the client (2.2.2.25).
    ProgressRecord,
    /// 0x00041011, to the client (2.2.2.26).
    InformationRecord,
    /// 0x00041100, to the client (2.2.2.27).
    PipelineHostCall,
    /// 0x00041101, to the server (2.2.2.28).
    PipelineHostResponse,
    /// A type that is not known here; to be skipped.
    Unknown(u32),
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Fewer bytes than the header has.
    #[error("a message of {0} bytes is shorter than its header")]
    TooShort(usize),
    /// Neither client nor server.
    #[error("a message for destination {0}, which does not exist")]
    UnknownDestination(u32),
}

impl Message {
    /// The bytes that travel: header with GUIDs in little endian order, byte order mark, CLIXML.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + BOM.len() + self.data.len());
        bytes.extend_from_slice(&self.destination.number().to_le_bytes());
        bytes.extend_from_slice(&self.kind.number().to_le_bytes());
        bytes.extend_from_slice(&self.pool.to_bytes_le());
        bytes.extend_from_slice(&self.pipeline.unwrap_or_default().to_bytes_le());
        bytes.extend_from_slice(BOM);
        bytes.extend_from_slice(&self.data);
        bytes
    }

    /// Reads a whole message.
    ///
    /// # Errors
    /// When it is shorter than a header or for nobody. A type that is not known is no error.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let Some((header, data)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(MessageError::TooShort(bytes.len()));
        };
        let [d0, d1, d2, d3, k0, k1, k2, k3, ids @ ..] = header;
        let (pool, pipeline) = ids.split_at(size_of::<Uuid>());
        let pipeline = guid(pipeline);
        Ok(Self {
            destination: Destination::from_number(u32::from_le_bytes([*d0, *d1, *d2, *d3]))?,
            kind: MessageType::from(u32::from_le_bytes([*k0, *k1, *k2, *k3])),
            pool: guid(pool),
            pipeline: (!pipeline.is_nil()).then_some(pipeline),
            data: data.strip_prefix(BOM).unwrap_or(data).to_vec(),
        })
    }
}

/// Shows how long the data is, not what it says.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("destination", &self.destination)
            .field("kind", &self.kind)
            .field("pool", &self.pool)
            .field("pipeline", &self.pipeline)
            .field("data", &format_args!("{} bytes", self.data.len()))
            .finish()
    }
}

impl Destination {
    fn number(self) -> u32 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }

    fn from_number(number: u32) -> Result<Self, MessageError> {
        match number {
            1 => Ok(Self::Client),
            2 => Ok(Self::Server),
            other => Err(MessageError::UnknownDestination(other)),
        }
    }
}

impl MessageType {
    /// The number that travels.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Unknown(number) => number,
            known => {
                let row = NUMBERS.iter().find(|(_, kind)| *kind == known);
                row.expect("every known type is in the table, as a test sees to").0
            }
        }
    }
}

impl From<u32> for MessageType {
    fn from(number: u32) -> Self {
        NUMBERS.iter().find(|(known, _)| *known == number).map_or(Self::Unknown(number), |(_, kind)| *kind)
    }
}

fn guid(bytes: &[u8]) -> Uuid {
    Uuid::from_bytes_le(bytes.try_into().expect("the header holds two GUIDs of 16 bytes"))
}

/// Destination, type, RPID, PID.
const HEADER: usize = 40;

/// PowerShell puts it before the CLIXML of each message; readers take it or leave it.
const BOM: &[u8] = b"\xEF\xBB\xBF";

const NUMBERS: [(u32, MessageType); 31] = [
    (0x0001_0002, MessageType::SessionCapability),
    (0x0001_0004, MessageType::InitRunspacePool),
    (0x0001_0005, MessageType::PublicKey),
    (0x0001_0006, MessageType::EncryptedSessionKey),
    (0x0001_0007, MessageType::PublicKeyRequest),
    (0x0001_0008, MessageType::ConnectRunspacePool),
    (0x0002_1002, MessageType::SetMaxRunspaces),
    (0x0002_1003, MessageType::SetMinRunspaces),
    (0x0002_1004, MessageType::RunspaceAvailability),
    (0x0002_1005, MessageType::RunspacePoolState),
    (0x0002_1006, MessageType::CreatePipeline),
    (0x0002_1007, MessageType::GetAvailableRunspaces),
    (0x0002_1008, MessageType::UserEvent),
    (0x0002_1009, MessageType::ApplicationPrivateData),
    (0x0002_100A, MessageType::GetCommandMetadata),
    (0x0002_100B, MessageType::RunspacePoolInitData),
    (0x0002_100C, MessageType::ResetRunspaceState),
    (0x0002_1100, MessageType::RunspacePoolHostCall),
    (0x0002_1101, MessageType::RunspacePoolHostResponse),
    (0x0004_1002, MessageType::PipelineInput),
    (0x0004_1003, MessageType::EndOfPipelineInput),
    (0x0004_1004, MessageType::PipelineOutput),
    (0x0004_1005, MessageType::ErrorRecord),
    (0x0004_1006, MessageType::PipelineState),
    (0x0004_1007, MessageType::DebugRecord),
    (0x0004_1008, MessageType::VerboseRecord),
    (0x0004_1009, MessageType::WarningRecord),
    (0x0004_1010, MessageType::ProgressRecord),
    (0x0004_1011, MessageType::InformationRecord),
    (0x0004_1100, MessageType::PipelineHostCall),
    (0x0004_1101, MessageType::PipelineHostResponse),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message {
            destination: Destination::Server,
            kind: MessageType::CreatePipeline,
            pool: "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap(),
            pipeline: Some("01234567-89ab-cdef-0123-456789abcdef".parse().unwrap()),
            data: b"<S>x</S>".to_vec(),
        }
    }

    #[test]
    fn a_message_is_laid_out_as_powershell_does_it() {
        let mut expected = vec![2, 0, 0, 0, 6, 0x10, 2, 0];
        expected.extend([0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF]);
        expected.extend([0x67, 0x45, 0x23, 1, 0xAB, 0x89, 0xEF, 0xCD, 1, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]);
        expected.extend(b"\xEF\xBB\xBF<S>x</S>");
        assert_eq!(message().encode(), expected);
        assert_eq!(Message::decode(&expected), Ok(message()));
    }

    #[test]
    fn a_nil_pipeline_is_none_and_the_byte_order_mark_may_be_missing() {
        let pool_only = Message { pipeline: None, data: Vec::new(), ..message() };
        let bytes = pool_only.encode();
        assert_eq!(Message::decode(&bytes), Ok(pool_only.clone()));
        assert_eq!(Message::decode(&bytes[..40]), Ok(pool_only));
    }

    #[test]
    fn every_type_keeps_its_number_known_or_not() {
        for (number, kind) in NUMBERS {
            assert_eq!((kind.number(), MessageType::from(number)), (number, kind));
        }
        assert_eq!(MessageType::from(0x0004_FFFF), MessageType::Unknown(0x0004_FFFF));
        assert_eq!(MessageType::Unknown(0x0004_FFFF).number(), 0x0004_FFFF);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let bytes = message().encode();
        for end in 0..HEADER {
            assert_eq!(Message::decode(&bytes[..end]), Err(MessageError::TooShort(end)));
        }
        let mut for_nobody = bytes;
        for_nobody[0] = 9;
        assert_eq!(Message::decode(&for_nobody), Err(MessageError::UnknownDestination(9)));
    }

    #[test]
    fn debug_output_does_not_show_the_data() {
        assert!(format!("{:?}", message()).ends_with("data: 8 bytes }"));
    }
}
