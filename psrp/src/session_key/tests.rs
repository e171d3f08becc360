use super::*;

#[test]
fn both_sides_get_the_same_key() {
    let client = KeyExchange::generate().unwrap();
    let server = SessionKey::generate();
    let wrapped = server.wrap_for(client.public_key()).unwrap();
    assert_eq!(client.accept(&wrapped).unwrap().0, server.0);
    assert_ne!(server.wrap_for(client.public_key()).unwrap(), wrapped, "the padding is random");
}

#[test]
fn secrets_of_every_length_come_back() {
    let key = SessionKey::generate();
    for length in 0..40 {
        let secret = "ä€😀x".chars().cycle().take(length).collect::<String>();
        assert_eq!(key.decrypt(&key.encrypt(&secret)).unwrap().expose(), secret);
    }
}

#[test]
fn the_wire_form_is_the_one_openssl_makes() {
    // printf 'p\0w\0' | openssl enc -aes-256-cbc -K 0707…07 -iv 0 | base64
    assert_eq!(SessionKey([7; KEY]).encrypt("pw"), "fUEA8nEVG/EEmDX0Vx9+bg==");
}

#[test]
fn a_damaged_secret_is_an_error() {
    let key = SessionKey::generate();
    let decrypt = |bytes: &[u8]| key.decrypt(&STANDARD.encode(bytes)).map(|secret| secret.expose().to_owned());
    assert_eq!(key.decrypt("%").unwrap_err(), KeyError::NotBase64);
    for length in (0..48).filter(|length| length % BLOCK != 0 || *length == 0) {
        assert_eq!(decrypt(&vec![1; length]), Err(KeyError::SecureString), "{length} bytes");
    }
    for unpadded in [[0; BLOCK], [17; BLOCK]] {
        assert_eq!(decrypt(&raw_encrypt(&key, &unpadded)), Err(KeyError::SecureString));
    }
}

#[test]
fn what_is_no_utf_16_is_an_error_rather_than_another_password() {
    let key = SessionKey::generate();
    let lone_surrogate = [0x3D, 0xD8, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14];
    let odd = [65, 0, 66, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13];
    for block in [lone_surrogate, odd] {
        let text = STANDARD.encode(raw_encrypt(&key, &block));
        assert_eq!(key.decrypt(&text).unwrap_err(), KeyError::SecureString);
    }
}

#[test]
fn a_key_for_another_pool_is_refused() {
    let wrapped = SessionKey::generate().wrap_for(KeyExchange::generate().unwrap().public_key()).unwrap();
    // Random padding may look right by chance (about 1 in 2^16), but then the length of the key is wrong.
    assert_eq!(KeyExchange::generate().unwrap().accept(&wrapped).unwrap_err(), KeyError::EncryptedSessionKey);
}

#[test]
fn blobs_that_are_cut_or_changed_are_refused() {
    let client = KeyExchange::generate().unwrap();
    let key = SessionKey::generate();
    let public = STANDARD.decode(client.public_key()).unwrap();
    let wrapped = STANDARD.decode(key.wrap_for(client.public_key()).unwrap()).unwrap();
    for end in 0..public.len() {
        assert_eq!(key.wrap_for(&STANDARD.encode(&public[..end])).unwrap_err(), KeyError::PublicKey);
    }
    for end in 0..wrapped.len() {
        let told = client.accept(&STANDARD.encode(&wrapped[..end])).unwrap_err();
        assert_eq!(told, KeyError::EncryptedSessionKey);
    }
    assert_eq!(key.wrap_for("%").unwrap_err(), KeyError::NotBase64);
    assert_eq!(client.accept("%").unwrap_err(), KeyError::NotBase64);
    let zeros = [PUBLIC_KEY_BLOB, &[0; 4], &[0; MODULUS]].concat();
    assert_eq!(key.wrap_for(&STANDARD.encode(zeros)).unwrap_err(), KeyError::PublicKey);
}

#[test]
fn debug_output_and_errors_say_nothing() {
    assert_eq!(format!("{:?}", SessionKey::generate()), "SessionKey");
    assert_eq!(format!("{:?}", KeyExchange::generate().unwrap()), "KeyExchange");
}

/// One block as it is, without padding.
fn raw_encrypt(key: &SessionKey, block: &[u8; BLOCK]) -> Vec<u8> {
    let mut bytes = block.to_vec();
    let context = EncryptionContext::Iv128(FixedLength::from([0; BLOCK]));
    let mut padded = bytes.clone();
    PaddedBlockEncryptingKey::cbc_pkcs7(key.unbound()).unwrap().less_safe_encrypt(&mut padded, context).unwrap();
    bytes.copy_from_slice(&padded[..BLOCK]);
    bytes
}
