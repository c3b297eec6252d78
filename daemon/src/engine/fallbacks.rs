//! What of the data path is not at its best here, and why: for `status` and the log.

use super::host::Host;
use super::start::hardware_aes;
use super::{Engine, Plane};
use crate::settings::{Settings, TunBackend};

impl<P: Plane> Engine<P> {
    /// One text per thing that is slower than it could be; empty at its best.
    pub(super) fn fallbacks(&self) -> Vec<String> {
        let mut texts = list(&self.settings, &self.host, hardware_aes());
        texts.extend(self.one_worker.clone());
        texts
    }
}

fn list(settings: &Settings, host: &Host, aes: bool) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut add = |text: &str| {
        if !texts.iter().any(|known| known == text) {
            texts.push(text.to_owned());
        }
    };
    if !settings.offload {
        add("segmentation offload is switched off (offload = false): each packet costs a system call");
    }
    for socket in host.sockets.iter().filter(|_| settings.offload) {
        if !socket.segments() {
            add("the kernel does not cut UDP datagrams (UDP_SEGMENT, Linux 4.18): each one sent costs a system call");
        }
        if !socket.gro() {
            add("the kernel does not merge UDP datagrams (UDP_GRO, Linux 5.0): they arrive one by one");
        }
    }
    for device in &host.devices {
        let features = device.tun.features();
        match (features.backend, settings.tun_backend) {
            ("tun-tap", TunBackend::TunTap) => add("the TUN backend tun-tap was asked for: one packet per system call"),
            ("tun-tap", _) => {
                add("the kernel knows no virtio header on TUN devices, so the backend is tun-tap: one packet per system call")
            }
            ("vnet", _) if settings.offload && !features.tso => add("the kernel has no segmentation offload on TUN devices"),
            ("vnet", _) if settings.offload && !features.uso => {
                add("the kernel has no UDP segmentation offload on TUN devices (Linux 6.2): only TCP is merged")
            }
            _ => {}
        }
    }
    if !aes {
        add("the CPU has no AES instructions, so ChaCha20-Poly1305 is preferred to AES-256-GCM");
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::super::host::Device;
    use super::*;
    use crate::settings::Flags;
    use crate::udp::{UdpOptions, UdpSocket};
    use annulus_core::batch::Slot;
    use annulus_core::io::RealmSlot;
    use annulus_tun_bridge::{Sent, Tun, TunFeatures, TunStats, mem};
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

    /// A device that says of itself what a test wants.
    #[derive(Debug)]
    struct Told(mem::MemTun, TunFeatures);

    impl AsFd for Told {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl AsRawFd for Told {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }
    }

    impl Tun for Told {
        fn recv(&mut self, buf: &mut [u8], slots: &mut [Slot]) -> io::Result<usize> {
            self.0.recv(buf, slots)
        }
        fn send(&mut self, buf: &[u8], slots: &[Slot]) -> io::Result<Sent> {
            self.0.send(buf, slots)
        }
        fn features(&self) -> TunFeatures {
            self.1
        }
        fn name(&self) -> &str {
            self.0.name()
        }
        fn mtu(&self) -> u16 {
            self.0.mtu()
        }
        fn stats(&self) -> TunStats {
            self.0.stats()
        }
    }

    const BEST: TunFeatures = TunFeatures { vnet: true, tso: true, uso: true, multi_queue: false, backend: "vnet" };

    fn texts(flags: Flags, features: TunFeatures, offload: bool, aes: bool) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("annulus.toml"), "").unwrap();
        let settings = Settings::new(&Flags { config: Some(dir.path().join("annulus.toml")), ..flags }).unwrap();
        let options = UdpOptions { offload, ..UdpOptions::default() };
        let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), 0, options).unwrap();
        let device = Device { realm: RealmSlot(0), tun: Box::new(Told(mem::pair("told", 1400).unwrap().0, features)) };
        list(&settings, &Host { sockets: vec![socket], devices: vec![device], ..Host::default() }, aes)
    }

    fn one(texts: &[String], word: &str) {
        assert!(texts.len() == 1 && texts[0].contains(word), "{word}: {texts:?}");
    }

    #[test]
    fn each_thing_that_is_missing_is_named_and_nothing_else() {
        let flags = Flags::default;
        assert_eq!(texts(flags(), BEST, true, true), [""; 0]);
        let plain = TunFeatures { vnet: false, tso: false, uso: false, multi_queue: false, backend: "tun-tap" };
        one(&texts(flags(), plain, true, true), "virtio header");
        one(&texts(Flags { tun_backend: Some(TunBackend::TunTap), ..flags() }, plain, true, true), "asked for");
        one(&texts(flags(), TunFeatures { tso: false, uso: false, ..BEST }, true, true), "no segmentation offload on TUN");
        one(&texts(flags(), TunFeatures { uso: false, ..BEST }, true, true), "only TCP");
        one(&texts(flags(), BEST, true, false), "ChaCha20-Poly1305");
        one(
            &texts(Flags { offload: Some(false), ..flags() }, TunFeatures { tso: false, uso: false, ..BEST }, false, true),
            "offload = false",
        );
        // A kernel without either leaves a socket as one without offload.
        let old = texts(flags(), BEST, false, true);
        assert!(old.len() == 2 && old[0].contains("UDP_SEGMENT") && old[1].contains("UDP_GRO"), "{old:?}");
    }
}
