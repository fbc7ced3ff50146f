//! A double of the hyperd daemon for tests: see `codiusd_kit::hyperd`.

fn main() -> std::process::ExitCode {
    codiusd_kit::hyperd::double()
}
