//! `/v1/renewals/{id}/certificate`: the new certificate without its key, for whoever registers it somewhere by hand.

use actix_web::{
    HttpResponse, get,
    http::header,
    web::{Data, Path},
};
use domain::{Outcome, RenewalId, Step, Thumbprint};

use crate::{
    Problem, State,
    caller::{May, Read},
};

/// Show the new certificate of a renewal: its public part, in PEM.
///
/// This is what a person registers in Microsoft Entra when no credentials for the tenant are configured. It carries no private key.
#[utoipa::path(tag = "renewals", params(("id" = RenewalId, Path)), responses(
    (status = 200, body = String, content_type = "application/pem-certificate-chain",
        headers(("Thumbprint" = String, description = "SHA-1 of the certificate, as Exchange and Entra show it")),
        example = "-----BEGIN CERTIFICATE-----\nMIIDXTCCAkWgAwIBAgIQ…\n-----END CERTIFICATE-----\n"),
    (status = 404, description = "There is no such renewal, or its certificate is not made so far (`certificate_not_ready`)")
))]
#[get("/v1/renewals/{id}/certificate")]
pub(crate) async fn show_certificate(
    _: May<Read>,
    state: Data<State>,
    id: Path<RenewalId>,
) -> Result<HttpResponse, Problem> {
    let found = state.db.read(async |tx| {
        let renewal = tx.renewal(*id).await?;
        db::Result::Ok((renewal, tx.steps(*id).await?))
    });
    let (renewal, steps) = found.await?;
    let Some((thumbprint, der)) = steps.iter().find_map(made) else {
        return Err(Problem::certificate_not_ready(renewal.state.status()));
    };
    Ok(HttpResponse::Ok()
        .content_type("application/pem-certificate-chain")
        .insert_header(("Thumbprint", thumbprint.as_str()))
        .insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{thumbprint}.pem\"")))
        .body(pem(der)))
}

/// The certificate that a step has made or taken over, as DER in base64.
fn made(step: &Step) -> Option<(&Thumbprint, &str)> {
    match step.outcome.as_deref()? {
        Outcome::Generated { thumbprint, certificate: Some(der), .. } => Some((thumbprint, der)),
        _ => None,
    }
}

/// The textual encoding of a certificate (RFC 7468).
fn pem(base64: &str) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for (place, character) in base64.chars().enumerate() {
        if place > 0 && place % LINE == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text + "\n-----END CERTIFICATE-----\n"
}

/// Characters in a line of PEM.
const LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_wrapped_as_other_programs_read_it() {
        let text = pem(&"A".repeat(130));
        let lengths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lengths, [27, 64, 64, 2, 25]);
        assert!(pem(&"A".repeat(128)).lines().all(|line| !line.is_empty()));
    }
}
