# make run      build and start the daemon in the foreground with the configuration of this checkout
# make test     everything `cargo test` runs, with what it needs installed first
# make demo     an attack on a mail host, played in network namespaces of its own
# make bench    the table of budgets, measured here and now
# make install  binaries, filters, configuration and units; honours DESTDIR and PREFIX

PREFIX     ?= /usr
SYSCONFDIR ?= /etc
DESTDIR    ?=
BINARIES   ?= target/release

CONFIG     = $(DESTDIR)$(SYSCONFDIR)/mailwarden
SHARE      = $(DESTDIR)$(PREFIX)/share/mailwarden
DOC        = $(DESTDIR)$(PREFIX)/share/doc/mailwarden
UNITS      = $(DESTDIR)$(PREFIX)/lib/systemd/system
INSTALL    = install -D -m

# sudo drops the path of a cargo that rustup has put into the home directory.
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: all build run test check demo bench install uninstall

all: build

build:
	scripts/install-deps build
	cargo build --release --locked

run:
	scripts/install-deps run
	cargo build --release --locked
	scripts/run $(ARGS)

test:
	scripts/install-deps test
	cargo test --locked --doc
	cargo test --locked --no-fail-fast --lib --bins --tests

# What CI asks for beyond the tests.
check:
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny --locked check licenses bans sources

demo:
	scripts/install-deps demo
	cargo build --release --locked
	scripts/demo

bench:
	scripts/install-deps demo
	scripts/bench $(ARGS)

# Needs no compiler, so that `make build && sudo make install` builds nothing as root. A configuration that is there stays
# as it is; filters and jails under PREFIX belong to mailwarden, and a new version replaces them.
install:
	test -x $(BINARIES)/mailwardend || $(MAKE) build
	$(INSTALL) 755 $(BINARIES)/mailwardend $(DESTDIR)$(PREFIX)/sbin/mailwardend
	$(INSTALL) 755 $(BINARIES)/mailwarden $(DESTDIR)$(PREFIX)/bin/mailwarden
	$(INSTALL) 755 $(BINARIES)/mailwarden-hookd $(DESTDIR)$(PREFIX)/sbin/mailwarden-hookd
	rm -rf $(SHARE)/filters $(SHARE)/jail.d
	install -d -m 755 $(SHARE)/filters $(SHARE)/jail.d $(CONFIG)/filters $(CONFIG)/jail.d
	for file in filters/*.toml jail.d/*.toml; do \
	    test ! -e "$$file" || $(INSTALL) 644 "$$file" "$(SHARE)/$$file" || exit 1; \
	done
	test ! -e mailwarden.toml || test -e $(CONFIG)/mailwarden.toml || $(INSTALL) 644 mailwarden.toml $(CONFIG)/mailwarden.toml
	$(INSTALL) 644 systemd/mailwarden.socket $(UNITS)/mailwarden.socket
	sed 's|/usr/sbin/|$(PREFIX)/sbin/|; s|/usr/share/|$(PREFIX)/share/|' systemd/mailwardend.service >$(UNITS)/mailwardend.service
	chmod 644 $(UNITS)/mailwardend.service
	$(INSTALL) 644 systemd/mailwarden-hookd.socket $(UNITS)/mailwarden-hookd.socket
	sed 's|/usr/sbin/|$(PREFIX)/sbin/|' 'systemd/mailwarden-hookd@.service' >'$(UNITS)/mailwarden-hookd@.service'
	chmod 644 '$(UNITS)/mailwarden-hookd@.service'
	$(INSTALL) 644 systemd/mailwarden.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/mailwarden.conf
	$(INSTALL) 644 systemd/mailwarden.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/mailwarden.conf
	for file in README.md NOTICE LICENSE-MIT LICENSE-APACHE docs/*.md; do \
	    $(INSTALL) 644 "$$file" "$(DOC)/$${file##*/}" || exit 1; \
	done
	for file in contrib/*/*; do \
	    mode=644; test ! -x "$$file" || mode=755; \
	    $(INSTALL) $$mode "$$file" "$(DOC)/$$file" || exit 1; \
	done
	test -n "$(DESTDIR)" || scripts/after-install

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/mailwardend $(DESTDIR)$(PREFIX)/sbin/mailwarden-hookd $(DESTDIR)$(PREFIX)/bin/mailwarden
	rm -f $(UNITS)/mailwardend.service $(UNITS)/mailwarden.socket
	rm -f $(UNITS)/mailwarden-hookd.socket $(UNITS)/mailwarden-hookd@.service
	rm -f $(DESTDIR)$(PREFIX)/lib/sysusers.d/mailwarden.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/mailwarden.conf
	rm -rf $(SHARE) $(DOC)
	@echo "left as they are: $(CONFIG), /var/lib/mailwarden, and the nftables table (nft delete table inet mailwarden)"
