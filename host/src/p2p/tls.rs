//! TLS 1.3 with pinned certificates.
//!
//! There is no authority and no name: a certificate is a guardian's if it equals
//! the one in the config, byte for byte, and whoever shows it must prove that it
//! holds the key.

use std::sync::Arc;

use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
        PeerIncompatible, ServerConfig, SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{CryptoProvider, ring, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
        server::danger::{ClientCertVerified, ClientCertVerifier},
        version::TLS13,
    },
};

/// This guardian's certificate with its key.
pub(super) struct Credentials<'a> {
    pub certificate: &'a [u8],
    /// PKCS #8 DER.
    pub key: &'a [u8],
}

impl Credentials<'_> {
    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from(self.certificate.to_vec());
        let key = PrivatePkcs8KeyDer::from(self.key.to_vec());
        (vec![certificate], key.into())
    }
}

/// Accepts those of `peers` and nobody else.
pub(super) fn acceptor(
    own: &Credentials<'_>,
    peers: Vec<CertificateDer<'static>>,
) -> Result<TlsAcceptor, Error> {
    let provider = Arc::new(ring::default_provider());
    let (chain, key) = own.parts();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Pinned { peers, provider }))
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Connects to `peer` and nobody else.
pub(super) fn connector(
    own: &Credentials<'_>,
    peer: CertificateDer<'static>,
) -> Result<TlsConnector, Error> {
    let provider = Arc::new(ring::default_provider());
    let (chain, key) = own.parts();
    let peers = vec![peer];
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { peers, provider }))
        .with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What the protocol wants to be told and nobody looks at.
pub(super) fn server_name() -> ServerName<'static> {
    ServerName::try_from("guardian").expect("a valid name")
}

#[derive(Debug)]
struct Pinned {
    peers: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.peers.iter().any(|peer| peer == certificate) {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }
}

/// The part that both ends do alike: TLS 1.3, by the algorithms of the provider.
macro_rules! tls13_alone {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            let algorithms = &self.provider.signature_verification_algorithms;
            algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    tls13_alone!();
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    tls13_alone!();
}
