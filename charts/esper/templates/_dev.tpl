{{/*
Where database, store and broker are, as JSON, with the peers they are in network policies: what the values say or, with
dev.enabled, the small ones that are made here for a trial.
*/}}
{{- define "esper.servers" -}}
{{- $database := deepCopy .Values.urza.database -}}
{{- $objects := deepCopy .Values.urza.objects -}}
{{- $pulsar := deepCopy .Values.pulsar -}}
{{- $peers := pick .Values.networkPolicies "database" "objects" "pulsar" -}}
{{- if .Values.dev.enabled -}}
{{- include "esper.dev-check" . -}}
{{- $full := include "esper.fullname" . -}}
{{- $hosts := dict -}}
{{- $pods := dict -}}
{{- range $part := list "postgres" "s3" "pulsar" -}}
{{- $_ := set $hosts $part (printf "%s-%s.%s.svc" $full $part $.Release.Namespace) -}}
{{- $namespace := dict "matchLabels" (dict "kubernetes.io/metadata.name" $.Release.Namespace) -}}
{{- $labels := include "esper.selector" (dict "root" $ "part" $part) | fromYaml -}}
{{- $_ := set $pods $part (list (dict "namespaceSelector" $namespace "podSelector" (dict "matchLabels" $labels))) -}}
{{- end -}}
{{- $database = merge (dict "host" $hosts.postgres "sslMode" "disable" "existingSecret" (printf "%s-postgres" $full)) $database -}}
{{- $objects = merge (dict "bucket" "kernels" "endpoint" (printf "http://%s:9000" $hosts.s3) "existingSecret" (printf "%s-s3" $full)) $objects -}}
{{- $pulsar = merge (dict "serviceUrl" (printf "pulsar://%s:6650" $hosts.pulsar) "adminUrl" (printf "http://%s:8080" $hosts.pulsar)) $pulsar -}}
{{- $peers = dict "database" $pods.postgres "objects" $pods.s3 "pulsar" $pods.pulsar -}}
{{- end -}}
{{- dict "database" $database "objects" $objects "pulsar" $pulsar "peers" $peers | toJson -}}
{{- end -}}

{{/* Refuses what can't be there beside dev.enabled: values that name other servers, or that its own do not serve. */}}
{{- define "esper.dev-check" -}}
{{- range $path := list "urza.database.host" "urza.database.existingSecret" "urza.database.caConfigMap" "urza.objects.bucket" "urza.objects.endpoint" "urza.objects.publicEndpoint" "urza.objects.existingSecret" "urza.objects.caConfigMap" "pulsar.serviceUrl" "pulsar.adminUrl" "pulsar.existingSecret" "pulsar.adminSecret" "pulsar.caConfigMap" "networkPolicies.database" "networkPolicies.objects" "networkPolicies.pulsar" -}}
{{- $value := $.Values -}}
{{- range $name := splitList "." $path -}}
{{- $value = index $value $name -}}
{{- end -}}
{{- if $value -}}
{{- fail (printf "%s: is given, and dev.enabled brings servers of its own; leave one of the two out" $path) -}}
{{- end -}}
{{- end -}}
{{- if not .Values.urza.enabled -}}
{{- fail "urza.enabled: is false, and dev.enabled brings the servers of the library; leave one of the two out" -}}
{{- end -}}
{{- if eq .Values.pools.scaler "Keda" -}}
{{- fail "pools.scaler: is Keda, which has to reach the broker, and the one of dev.enabled lets only pods of the release and trainers in; take Operator or None" -}}
{{- end -}}
{{- end -}}

{{/*
Containers of the servers, "esper.dev-PART". Programs are on the PATH or where the official images have them.
*/}}
{{- define "esper.dev-postgres" -}}
{{- $database := (include "esper.servers" . | fromJson).database -}}
command:
  - sh
  - -euc
  - |
    data=/var/lib/esper/data
    if [ ! -d "$data" ]; then
      # Of a start that was killed half-way.
      rm -rf "$data.new"
      initdb -D "$data.new" -U "$PGUSER" --pwfile=/var/run/secrets/esper-postgres/password -A scram-sha-256 -E UTF8 --locale=C.UTF-8
      echo 'host all all all scram-sha-256' >> "$data.new/pg_hba.conf"
      echo 'CREATE DATABASE "{{ $database.name }}"' | postgres --single -D "$data.new" postgres
      mv "$data.new" "$data"
    fi
    # A claim's files are opened to the group of the pod, which PostgreSQL refuses.
    chmod 0700 "$data"
    exec postgres -D "$data" -c port={{ $database.port }} -c listen_addresses='*' -c unix_socket_directories=/tmp -c shared_buffers=64MB
env:
  - name: PGUSER
    valueFrom: {secretKeyRef: {name: {{ $database.existingSecret }}, key: {{ $database.userKey }}}}
ports:
  - {name: server, containerPort: {{ $database.port }}}
{{- range $probe, $numbers := dict "startup" (list 2 60) "liveness" (list 20 3) "readiness" (list 5 3) }}
{{ $probe }}Probe:
  exec: {command: [pg_isready, --quiet, -h, 127.0.0.1, -p, {{ $database.port | quote }}]}
  periodSeconds: {{ first $numbers }}
  failureThreshold: {{ last $numbers }}
  timeoutSeconds: 5
{{- end }}
lifecycle:
  # Told to end, it would wait for its clients to go first.
  preStop: {exec: {command: [pg_ctl, -D, /var/lib/esper/data, -m, fast, stop]}}
volumeMounts:
  - {name: data, mountPath: /var/lib/esper}
  - {name: tmp, mountPath: /tmp}
  - {name: password, mountPath: /var/run/secrets/esper-postgres, readOnly: true}
  - {name: passwd, mountPath: /etc/passwd, subPath: passwd, readOnly: true}
{{- end -}}

{{- define "esper.dev-s3" -}}
{{- $objects := (include "esper.servers" . | fromJson).objects -}}
command:
  - sh
  - -euc
  - |
    # A folder is a bucket.
    mkdir -p /var/lib/esper/buckets/{{ $objects.bucket }}
    export PATH="$PATH:/app"
    exec versitygw --port :9000 --region {{ $objects.region }} --health /healthz --quiet posix /var/lib/esper/buckets
env:
  - name: ROOT_ACCESS_KEY
    valueFrom: {secretKeyRef: {name: {{ $objects.existingSecret }}, key: {{ $objects.accessKeyKey }}}}
  - name: ROOT_SECRET_KEY
    valueFrom: {secretKeyRef: {name: {{ $objects.existingSecret }}, key: {{ $objects.secretKeyKey }}}}
ports:
  - {name: server, containerPort: 9000}
{{- range $probe, $numbers := dict "startup" (list 2 30) "liveness" (list 20 3) "readiness" (list 5 3) }}
{{ $probe }}Probe:
  httpGet: {path: /healthz, port: server}
  periodSeconds: {{ first $numbers }}
  failureThreshold: {{ last $numbers }}
  timeoutSeconds: 5
{{- end }}
volumeMounts:
  - {name: data, mountPath: /var/lib/esper}
  - {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "esper.dev-pulsar" -}}
{{- $host := trimPrefix "pulsar://" (include "esper.servers" . | fromJson).pulsar.serviceUrl | trimSuffix ":6650" -}}
command:
  - sh
  - -euc
  - |
    cat > /tmp/standalone.conf <<END
    clusterName=standalone
    bindAddress=0.0.0.0
    advertisedAddress={{ $host }}
    brokerServicePort=6650
    webServicePort=8080
    managedLedgerDefaultEnsembleSize=1
    managedLedgerDefaultWriteQuorum=1
    managedLedgerDefaultAckQuorum=1
    managedLedgerCacheSizeMB=32
    loadBalancerEnabled=false
    allowAutoTopicCreation=false
    transactionCoordinatorEnabled=false
    numIOThreads=2
    numHttpServerThreads=8
    dbStorage_writeCacheMaxSizeMb=32
    dbStorage_readAheadCacheMaxSizeMb=32
    END
    export PATH="$PATH:/pulsar/bin"
    exec pulsar standalone -nfw -nss --metadata-dir /var/lib/esper/metadata --bookkeeper-dir /var/lib/esper/bookkeeper -a {{ $host }}
env:
  - {name: PULSAR_STANDALONE_CONF, value: /tmp/standalone.conf}
  - {name: PULSAR_LOG_DIR, value: /tmp}
  - {name: PULSAR_LOG_LEVEL, value: warn}
  - {name: PULSAR_MEM, value: "-Xms128m -Xmx512m -XX:MaxDirectMemorySize=384m"}
  - {name: PULSAR_GC, value: "-XX:+UseSerialGC"}
  - {name: PULSAR_GC_LOG, value: "-Xlog:all=warning"}
ports:
  - {name: server, containerPort: 6650}
  - {name: http, containerPort: 8080}
# The last thing that it makes when it starts.
startupProbe:
  httpGet: {path: /admin/v2/namespaces/public/default, port: http}
  periodSeconds: 3
  failureThreshold: 100
  timeoutSeconds: 5
livenessProbe:
  httpGet: {path: /admin/v2/brokers/health, port: http}
  periodSeconds: 30
  failureThreshold: 5
  timeoutSeconds: 20
readinessProbe:
  httpGet: {path: /admin/v2/namespaces/public/default, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
volumeMounts:
  - {name: data, mountPath: /var/lib/esper}
  - {name: tmp, mountPath: /tmp}
{{- end -}}
