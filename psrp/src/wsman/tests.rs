//! Round trips, foreign spellings and damaged envelopes.

use super::*;

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(0xAB00_0000_0000_4000_8000_0000_0000_0000 + n)
}

fn header() -> Header {
    Header {
        to: "https://ex01.contoso.example/PowerShell?a=1&b=2".to_owned(),
        resource_uri: "http://schemas.microsoft.com/powershell/Microsoft.Exchange".to_owned(),
        shell: Some(uuid(1)),
        message: uuid(2),
        session: Some(uuid(3)),
        max_envelope_size: 512_000,
        operation_timeout: Duration::from_millis(20_500),
    }
}

fn requests() -> Vec<Request> {
    let data = vec![0, 1, 2, 250, 251];
    let stream = |name: &str, command| Stream { name: name.to_owned(), command, data: data.clone() };
    let create = RequestBody::Create {
        shell: Some(uuid(1)),
        protocol_version: Some("2.3".to_owned()),
        creation: stdin(None, data.clone()),
    };
    let bodies = vec![
        RequestBody::Command { command: Some(uuid(4)), arguments: stdin(Some(uuid(4)), data.clone()) },
        RequestBody::Send { streams: vec![stream("stdin", None), stream("pr", Some(uuid(4)))] },
        RequestBody::Receive { command: None },
        RequestBody::Receive { command: Some(uuid(4)) },
        RequestBody::Signal { command: uuid(4), signal: Signal::Stop },
        RequestBody::Signal { command: uuid(4), signal: Signal::Terminate },
        RequestBody::Delete,
    ];
    let others = bodies.into_iter().map(|body| Request { header: header(), body });
    std::iter::once(Request { header: Header { shell: None, ..header() }, body: create }).chain(others).collect()
}

fn responses() -> Vec<ResponseBody> {
    let stream = |data: &[u8]| Stream { name: "stdout".to_owned(), command: Some(uuid(4)), data: data.to_vec() };
    vec![
        ResponseBody::Created { shell: uuid(1), resource_uri: header().resource_uri, to: header().to },
        ResponseBody::Accepted { command: uuid(4) },
        ResponseBody::Sent,
        ResponseBody::Received { streams: vec![stream(b"one"), stream(b"")], state: None },
        ResponseBody::Received { streams: Vec::new(), state: Some(CommandState::Running) },
        ResponseBody::Received {
            streams: vec![stream(b"end")],
            state: Some(CommandState::Done { command: Some(uuid(4)) }),
        },
        ResponseBody::Signalled,
        ResponseBody::Deleted,
    ]
}

#[test]
fn every_request_comes_back_as_it_was_written() {
    for request in requests() {
        assert_eq!(Request::parse(&request.write()), Ok(request));
    }
}

#[test]
fn every_response_and_fault_comes_back_as_it_was_written() {
    for body in responses() {
        let response = Response { relates_to: Some(uuid(2)), body };
        assert_eq!(Response::parse(response.body.operation(), &response.write()), Ok(Ok(response)));
    }
    let faults = [
        Fault::timed_out(),
        Fault::no_such_shell(),
        Fault::no_such_command(),
        Fault::too_large(512_000),
        Fault::too_many_shells(18),
        Fault::invalid("<&>"),
    ];
    for fault in faults {
        assert_eq!(Fault::parse(&fault.write(None)), Ok(Some(fault.clone())));
        assert_eq!(Response::parse(Operation::Receive, &fault.write(Some(uuid(2)))), Ok(Err(fault)));
    }
}

#[test]
fn a_request_has_the_headers_that_windows_wants() {
    let text = String::from_utf8(requests()[1].write()).unwrap();
    for part in [
        "<a:To>https://ex01.contoso.example/PowerShell?a=1&amp;b=2</a:To>",
        r#"<w:ResourceURI s:mustUnderstand="true">http://schemas.microsoft.com/powershell/Microsoft.Exchange<"#,
        r#"<a:Action s:mustUnderstand="true">http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Command<"#,
        r#"<w:MaxEnvelopeSize s:mustUnderstand="true">512000</w:MaxEnvelopeSize>"#,
        "<a:MessageID>uuid:00000000-0000-0000-AB00-000000000002</a:MessageID>",
        r#"<w:Selector Name="ShellId">"#,
        "<w:OperationTimeout>PT20.500S</w:OperationTimeout>",
        "<rsp:Command></rsp:Command><rsp:Arguments>AAEC+vs=</rsp:Arguments>",
        "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous",
    ] {
        let part = part.replace("00000000-0000-0000-AB00-000000000002", &shown(uuid(2)));
        assert!(text.contains(&part), "{part} in {text}");
    }
    let create = String::from_utf8(requests()[0].write()).unwrap();
    assert!(create.contains(r#"<w:Option Name="protocolversion" MustComply="true">2.3</w:Option>"#), "{create}");
    assert!(create.contains("<rsp:InputStreams>stdin pr</rsp:InputStreams>"), "{create}");
    assert!(create.contains("<rsp:OutputStreams>stdout</rsp:OutputStreams>"), "{create}");
}

#[test]
fn prefixes_marks_and_breaks_do_not_matter() {
    let text = format!(
        "\u{feff}<?xml version=\"1.0\"?>\n<Envelope xmlns=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:z=\"http://schemas.microsoft.com/wbem/wsman/1/windows/shell\"><Header>\
         <new:Header xmlns:new=\"urn:new\"/><q:RelatesTo xmlns:q=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\">\
         uuid:{id}</q:RelatesTo></Header><Body><z:ReceiveResponse><z:New/><z:Stream Name='stdout' \
         CommandId='{{{id}}}'>YW\r\n  Jj</z:Stream><z:CommandState State=\"http://x/CommandState/Done\"/>\
         </z:ReceiveResponse></Body></Envelope>",
        id = uuid(2)
    );
    let stream = Stream { name: "stdout".to_owned(), command: Some(uuid(2)), data: b"abc".to_vec() };
    let state = Some(CommandState::Done { command: None });
    let body = ResponseBody::Received { streams: vec![stream], state };
    assert_eq!(
        Response::parse(Operation::Receive, text.as_bytes()),
        Ok(Ok(Response { relates_to: Some(uuid(2)), body }))
    );
}

#[test]
fn a_fault_of_a_provider_keeps_its_number_and_all_of_its_text() {
    let fault = |detail: &str| {
        let text = format!(
            "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"><s:Header/><s:Body><s:Fault><s:Code>\
             <s:Value>s:Receiver</s:Value><s:Subcode><s:Value>w:InternalError</s:Value></s:Subcode></s:Code><s:Reason>\
             <s:Text xml:lang=\"\">the reason </s:Text></s:Reason>{detail}</s:Fault></s:Body></s:Envelope>"
        );
        Fault::parse(text.as_bytes()).unwrap().unwrap()
    };
    let windows = |code: &str, message: &str| {
        fault(&format!(
            "<s:Detail><f:WSManFault xmlns:f=\"http://schemas.microsoft.com/wbem/wsman/1/wsmanfault\" Code=\"{code}\" \
             Machine=\"ex01\"><f:Message>{message}</f:Message></f:WSManFault></s:Detail>"
        ))
    };
    let provider =
        windows("2152992672", "<f:ProviderFault provider=\"p\" path=\"x.dll\">no &#38; never</f:ProviderFault>");
    assert_eq!((provider.code, provider.message.as_str()), (2_152_992_672, "no & never"));
    assert_eq!(windows("2150858793", "").message, "the reason");
    assert!(windows("0x80338029", "").is_timeout());
    assert!(windows("-2144108503", "").is_timeout());
    let bare = fault("");
    assert_eq!((bare.code, bare.subcode.as_str(), bare.message.as_str()), (0, "w:InternalError", "the reason"));
    assert_eq!(bare.to_string(), "the reason (w:InternalError, 0)");
}

#[test]
fn a_request_that_is_not_understood_is_refused_with_its_own_id_when_it_has_one() {
    let whole = String::from_utf8(requests()[1].write()).unwrap();
    let refused = |from: &str, to: &str| Request::parse(whole.replace(from, to).as_bytes()).unwrap_err();
    let (fault, id) = refused("shell/Command<", "shell/Connect<");
    assert_eq!((fault.subcode.as_str(), id), ("a:ActionNotSupported", Some(uuid(2))));
    let (fault, id) = refused("AAEC+vs=", "not base64!");
    assert_eq!((fault.code, id), (Fault::INVALID, Some(uuid(2))));
    let (fault, id) = refused("MessageID", "Message");
    assert_eq!((fault.code, id), (Fault::INVALID, None));
    let (fault, _) = refused("PT20.500S", "soon");
    assert_eq!(fault.code, Fault::INVALID);
}

#[test]
fn durations_are_read_as_xml_schema_has_them() {
    let timeout = |text: &str| {
        let whole = String::from_utf8(requests()[1].write()).unwrap().replace("PT20.500S", text);
        Request::parse(whole.as_bytes()).map(|request| request.header.operation_timeout)
    };
    for (text, seconds) in [("PT20S", 20.0), ("PT1M0.5S", 60.5), ("P0DT1H", 3600.0), ("P9999999D", 86_400.0)] {
        assert_eq!(timeout(text).unwrap(), Duration::from_secs_f64(seconds), "{text}");
    }
    for text in ["20", "P1Y", "PT5", "PTS", "PT1.2.3S", "PT-1S"] {
        assert!(timeout(text).is_err(), "{text}");
    }
}

#[test]
fn entities_and_deep_nests_are_refused() {
    let whole = String::from_utf8(requests()[1].write()).unwrap();
    let bomb = format!("<!DOCTYPE x [<!ENTITY a \"aaaa\">]>{whole}");
    assert_eq!(Parts::parse(bomb.as_bytes()).err(), Some(XmlError::Entity.into()));
    let entity = whole.replace("AAEC+vs=", "&a;");
    assert_eq!(Parts::parse(entity.as_bytes()).err(), Some(XmlError::Entity.into()));
    let deep = whole.replace("AAEC+vs=", &format!("{}{}", "<x>".repeat(1000), "</x>".repeat(1000)));
    assert_eq!(Parts::parse(deep.as_bytes()).err(), Some(XmlError::TooMuch.into()));
    let wide = whole.replace("AAEC+vs=", &"<x/>".repeat(30_000));
    assert_eq!(Parts::parse(wide.as_bytes()).err(), Some(XmlError::TooMuch.into()));
}

/// No stack grows with the input, nothing is compared with everything before it.
#[test]
fn an_envelope_of_nothing_but_one_thing_is_refused() {
    let whole = String::from_utf8(requests()[1].write()).unwrap();
    let refused = |text: &str| Parts::parse(whole.replace("AAEC+vs=", text).as_bytes()).err().map(|e| e.to_string());
    let too_much = Some(Malformed::from(XmlError::TooMuch).to_string());
    let many = |count: usize, piece: fn(usize) -> String| (0..count).map(piece).collect::<String>();
    assert_eq!(refused(&"<x>".repeat(100_000)), too_much);
    assert_eq!(refused(&format!("<x{}/>", many(100_000, |n| format!(" a{n}=''")))), too_much);
    assert!(refused(&format!("<x{}/>", many(100_000, |n| format!(" xmlns:a{n}='b'")))).is_some());
    assert!(refused(&"<![CDATA[".repeat(100_000)).is_some());
    assert!(refused(&"<!--".repeat(100_000)).is_some());
}

#[test]
fn what_is_not_well_formed_is_not_quoted_at_length() {
    let body = format!("<{0}></{0}b>", "a".repeat(1_000_000));
    let error = Parts::parse(body.as_bytes()).err().unwrap().to_string();
    assert!(error.len() < 300, "{} bytes", error.len());
}

#[test]
fn base64_is_read_with_and_without_its_end_but_not_cut() {
    let whole = String::from_utf8(requests()[1].write()).unwrap();
    let data = |text: &str| {
        let request = Request::parse(whole.replace("AAEC+vs=", text).as_bytes()).ok()?;
        let RequestBody::Command { arguments, .. } = request.body else { return None };
        Some(arguments.data)
    };
    for (text, bytes) in [("", &b""[..]), ("YWI=", b"ab"), ("YWI", b"ab"), ("YQ", b"a"), (" Y\tQ\n= = ", b"a")] {
        assert_eq!(data(text).as_deref(), Some(bytes), "{text}");
    }
    for text in ["Y", "YWJjZ", "YWI==", "=", "YWI=YWI=", "YR", "Y-_w", "Y\u{a0}Q"] {
        assert_eq!(data(text), None, "{text}");
    }
}

#[test]
fn damaged_envelopes_are_errors_and_never_a_panic() {
    let mut originals: Vec<Vec<u8>> = requests().iter().map(Request::write).collect();
    originals.extend(responses().into_iter().map(|body| Response { relates_to: Some(uuid(2)), body }.write()));
    originals.push(Fault::no_such_shell().write(None));
    let read = |bytes: &[u8]| {
        let _ = Request::parse(bytes);
        let _ = Fault::parse(bytes);
        for operation in Operation::ALL {
            let _ = Response::parse(operation, bytes);
        }
    };
    // A fixed sequence, so that a failure can be repeated.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for original in originals {
        for _ in 0..40 {
            read(&original[..next(original.len())]);
            let mut changed = original.clone();
            for _ in 0..=next(4) {
                let at = next(changed.len());
                changed[at] = b"<>\"'&;/ =\x00\xff0"[next(12)];
            }
            read(&changed);
        }
    }
}

#[test]
fn debug_output_does_not_show_what_is_sent() {
    let shown = format!("{:?}", requests());
    assert!(shown.contains("bytes: 5") && !shown.contains("250"), "{shown}");
}

#[test]
fn breaks_and_tabs_in_a_text_come_back_as_they_were() {
    let text = "first\r\nsecond\nthird\t<&>\"'";
    let fault = Fault { detail: Some(text.to_owned()), ..Fault::new(text, 1, text) };
    assert_eq!(Fault::parse(&fault.write(None)), Ok(Some(fault)));
    let stream = Stream { name: text.to_owned(), command: None, data: Vec::new() };
    let body = ResponseBody::Received { streams: vec![stream], state: None };
    let response = Response { relates_to: None, body };
    assert_eq!(Response::parse(Operation::Receive, &response.write()), Ok(Ok(response)));
    let request = Request { header: Header { to: text.to_owned(), ..header() }, body: RequestBody::Delete };
    assert_eq!(Request::parse(&request.write()), Ok(request));
}
