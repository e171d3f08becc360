use psrp::client::Operation;
use psrp::wsman::{Fault, Request, Response};

/// An envelope as a request, as a fault and as the answer to anything: whatever it is, written again it is read as the same.
pub fn soap(input: &[u8]) {
    request(input);
    if let Ok(Some(fault)) = Fault::parse(input) {
        assert_eq!(Fault::parse(&fault.write(None)), Ok(Some(fault)));
    }
    for operation in OPERATIONS {
        if let Ok(Ok(response)) = Response::parse(operation, input) {
            assert_eq!(Response::parse(operation, &response.write()), Ok(Ok(response)));
        }
    }
}

fn request(input: &[u8]) {
    match Request::parse(input) {
        Ok(mut request) => {
            let again = Request::parse(&request.write()).expect("what was written can be read");
            // Written to the millisecond.
            request.header.operation_timeout = again.header.operation_timeout;
            assert_eq!(again, request);
        }
        Err((fault, id)) => assert_eq!(Fault::parse(&fault.write(id)), Ok(Some(fault))),
    }
}

const OPERATIONS: [Operation; 6] =
    [Operation::Create, Operation::Command, Operation::Send, Operation::Receive, Operation::Signal, Operation::Delete];
