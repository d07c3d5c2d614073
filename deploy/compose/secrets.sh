#!/bin/sh
# Makes the secrets of compose.yaml in deploy/compose/secrets/, for whoever runs this: a token for everything, and one
# pair of keys for SeaweedFS (s3.json) and streamer (aws). Replaces nothing. Needs `streamer` on PATH, or STREAMER=COMMAND.
# Run it as root: streamer, which is root in its container, takes tokens from nobody else.
set -eu
umask 077
directory="$(dirname "$0")/secrets"
mkdir -p "$directory"
cd "$directory"

if [ ! -e tokens.toml ]; then
  ${STREAMER:-streamer} token new compose --kinds '*' >tokens.new 2>token.new
  sed -n 's/.*shown only now: //p' token.new >token
  rm token.new
  mv tokens.new tokens.toml
fi

if [ ! -e s3.json ]; then
  random() { od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }
  key="$(random 10)"
  secret="$(random 20)"
  cat >aws <<END
[default]
aws_access_key_id = $key
aws_secret_access_key = $secret
END
  cat >s3.new <<END
{
  "identities": [
    {
      "name": "streamer",
      "credentials": [{"accessKey": "$key", "secretKey": "$secret"}],
      "actions": ["Read:exports", "Write:exports", "List:exports", "Tagging:exports"]
    }
  ]
}
END
  mv s3.new s3.json
fi
