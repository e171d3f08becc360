#!/usr/bin/env bash
# A throw-away MIT KDC for the realm EXAMPLE.COM (Debian: krb5-kdc krb5-admin-server), in the foreground: it ends with this process.
# When it answers, one line of JSON says where it is: {"port": ..., "krb5_conf": ..., "keytab": ...}
#
#   kdc.sh FOLDER [HOST ...]     a new folder; the keytab holds HTTP/HOST for each (default: localhost)
#
# The account svc-rotate has the password Passw0rd! and must pre-authenticate, as Active Directory demands.
set -euo pipefail

mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- localhost
PATH=$PATH:/usr/sbin:/sbin
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

cat > "$folder/krb5.conf" << END
[libdefaults]
 default_realm = EXAMPLE.COM
 dns_lookup_kdc = false
 dns_lookup_realm = false
 rdns = false
 dns_canonicalize_hostname = false
 udp_preference_limit = 1
[realms]
 EXAMPLE.COM = {
  kdc = 127.0.0.1:$port
 }
[domain_realm]
 localhost = EXAMPLE.COM
 .example.com = EXAMPLE.COM
 .contoso.example = EXAMPLE.COM
END
cat > "$folder/kdc.conf" << END
[kdcdefaults]
 kdc_listen = 127.0.0.1:$port
 kdc_tcp_listen = 127.0.0.1:$port
[realms]
 EXAMPLE.COM = {
  database_name = $folder/principal
  key_stash_file = $folder/stash
  acl_file = $folder/acl
  max_life = 10h
  supported_enctypes = aes256-cts:normal aes128-cts:normal
 }
END
export KRB5_CONFIG=$folder/krb5.conf KRB5_KDC_PROFILE=$folder/kdc.conf
keytab=$folder/http.keytab
{
    kdb5_util create -s -r EXAMPLE.COM -P "$(openssl rand -hex 16)"
    kadmin.local -q 'addprinc +requires_preauth -pw Passw0rd! svc-rotate@EXAMPLE.COM'
    # The account's own key, for those who log on without a password.
    kadmin.local -q "ktadd -norandkey -k $folder/user.keytab svc-rotate@EXAMPLE.COM"
    for host; do
        kadmin.local -q "addprinc -randkey HTTP/$host@EXAMPLE.COM"
        kadmin.local -q "ktadd -k $keytab HTTP/$host@EXAMPLE.COM"
    done
} > "$folder/setup.log" 2>&1 || { cat "$folder/setup.log" >&2 && exit 1; }

{
    until (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do sleep 0.05; done
    printf '{"port": %s, "krb5_conf": "%s", "keytab": "%s", "user_keytab": "%s"}\n' \
        "$port" "$KRB5_CONFIG" "$keytab" "$folder/user.keytab"
} &
exec krb5kdc -n > "$folder/kdc.log" 2>&1
