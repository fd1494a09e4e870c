//! What a memory budget makes of limits that are left open: [`Open`].

use gateway::GatewaySettings;
use gateway::memory::{BODY_COST, CONNECTION_BYTES};
use ledger::LedgerSettings;
use toml::Table;

const MIB: usize = 1 << 20;
/// HTTP gets one part of the budget in so many, within these bytes.
const HTTP_SHARE: u64 = 32;
const HTTP_BYTES_LEAST: usize = 8 * MIB;
const HTTP_BYTES_MOST: usize = 512 * MIB;
/// Connections get one part of HTTP's bytes in so many, and are at least as many.
const CONNECTIONS_SHARE: usize = 4;
const CONNECTIONS_LEAST: usize = 32;
/// The longest body gets one part of the budget in so many: it is read, and made into tokens, at once.
const BODY_SHARE: u64 = 2048;
const BODY_BYTES_LEAST: usize = 128 << 10;
/// Rows that wait for the ledger get one part of the budget in so many bytes.
const LEDGER_SHARE_BYTES: u64 = 512 << 10;
const LEDGER_ROWS_LEAST: usize = 256;

/// Which limits the user left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    http: bool,
    connections: bool,
    body: bool,
    rows: bool,
}

impl Open {
    pub(super) fn of(server: &Table, ledger: &Table) -> Self {
        Open {
            http: !server.contains_key("http_bytes_max"),
            connections: !server.contains_key("connections_max"),
            body: !server.contains_key("request_bytes_max"),
            rows: !ledger.contains_key("queue_rows_max"),
        }
    }

    /// Sets what is open to what a budget has for it; the defaults at the most.
    pub fn fit(&self, memory_bytes: u64, (gateway, ledger): (&mut GatewaySettings, &mut LedgerSettings)) {
        let part = |share: u64| usize::try_from(memory_bytes / share).unwrap_or(usize::MAX);
        if self.http {
            gateway.http_bytes_max = part(HTTP_SHARE).clamp(HTTP_BYTES_LEAST, HTTP_BYTES_MOST);
        }
        if self.connections {
            let bytes = gateway.http_bytes_max / CONNECTIONS_SHARE;
            let most = GatewaySettings::default().connections_max;
            gateway.connections_max = (bytes / CONNECTION_BYTES).clamp(CONNECTIONS_LEAST, most);
        }
        if self.body {
            // Half of what is left for requests at the most.
            let requests = gateway.http_bytes_max.saturating_sub(gateway.connections_max * CONNECTION_BYTES);
            let bytes = part(BODY_SHARE).max(BODY_BYTES_LEAST).min(requests / 2 / BODY_COST);
            gateway.request_bytes_max = bytes.clamp(1, GatewaySettings::default().request_bytes_max);
        }
        if self.rows {
            let most = LedgerSettings::default().queue_rows_max;
            ledger.queue_rows_max = part(LEDGER_SHARE_BYTES).clamp(LEDGER_ROWS_LEAST, most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(text: &str, memory_bytes: u64) -> (GatewaySettings, LedgerSettings) {
        let server: Table = toml::from_str(text).unwrap();
        let open = Open::of(&server, &Table::new());
        let mut gateway: GatewaySettings = server.try_into().unwrap();
        let mut ledger = LedgerSettings::default();
        open.fit(memory_bytes, (&mut gateway, &mut ledger));
        (gateway, ledger)
    }

    #[test]
    fn every_budget_gives_settings_that_work() {
        for mib in [1, 64, 256, 400, 700, 3072, 1 << 20] {
            let (gateway, ledger) = fitted("", mib << 20);
            assert_eq!(gateway.validate(), Ok(()), "{mib} MiB: {gateway:?}");
            assert!(ledger.validate().is_ok(), "{mib} MiB: {ledger:?}");
        }
        let (gateway, ledger) = fitted("", 64 << 30);
        assert_eq!(gateway, GatewaySettings { request_bytes_max: 4 << 20, ..GatewaySettings::default() });
        assert_eq!(ledger, LedgerSettings::default());
    }

    #[test]
    fn what_is_set_stays() {
        let (gateway, _) = fitted("http_bytes_max = 20000000\nconnections_max = 100", 256 << 20);
        assert_eq!((gateway.http_bytes_max, gateway.connections_max), (20_000_000, 100));
        assert_eq!(fitted("request_bytes_max = 5000", 256 << 20).0.request_bytes_max, 5000);
    }
}
