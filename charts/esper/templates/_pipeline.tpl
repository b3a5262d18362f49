{{/*
Pod template of the dispatcher and of pool workers. Called with (dict "root" $ "part" NAME "values" V "command" WORDS
"prefix" PREFIX "signs" WHAT): what its settings' variables begin with, and what a worker vouches for, if it does.
*/}}
{{- define "esper.pipeline-pod" -}}
metadata:
  labels:
    {{- include "esper.labels" . | nindent 4 }}
  {{- with .values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "esper.pod" . | nindent 2 }}
  automountServiceAccountToken: false
  {{- if .signs }}
  # Whoever ends has found no work; the Job decides about who failed.
  restartPolicy: Never
  {{- end }}
  # Work in hand is finished; a build of strategy Standard takes up to five minutes.
  terminationGracePeriodSeconds: {{ ternary 320 60 (ne .signs "") }}
  {{- if eq .part "dispatcher" }}
  initContainers:
    # Topics and subscriptions; running it again changes nothing.
    - name: provision
      image: {{ include "esper.image" (dict "root" .root "image" .root.Values.images.operator) | quote }}
      imagePullPolicy: {{ .root.Values.images.pullPolicy }}
      command: {{ concat (list "esper" "oona" "provision") (ternary list (list "--hardware" .root.Values.pools.hardware) (empty .root.Values.pools.hardware)) | toJson }}
      env:
        {{- $told := include "esper.pulsar-environment" .root | fromYaml }}
        {{- $_ := set $told "ESPER_PULSAR_ADMIN_URL" (include "esper.servers" .root | fromJson).pulsar.adminUrl }}
        {{- if .root.Values.pulsar.adminSecret }}
        {{- $_ := set $told "ESPER_PULSAR_TOKEN_FILE" "/var/run/secrets/esper-pulsar-admin/token" }}
        {{- end }}
        {{- range $variable, $value := $told }}
        - {name: {{ $variable }}, value: {{ $value | quote }}}
        {{- end }}
      resources:
        {{- toYaml .values.resources | nindent 8 }}
      {{- include "esper.container-security" .root | nindent 6 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- include "esper.pulsar-mounts" .root | nindent 8 }}
        {{- if .root.Values.pulsar.adminSecret }}
        - {name: pulsar-admin, mountPath: /var/run/secrets/esper-pulsar-admin, readOnly: true}
        {{- end }}
  {{- end }}
  containers:
    - name: {{ .part }}
      image: {{ include "esper.image" (dict "root" .root "image" .root.Values.images.worker) | quote }}
      imagePullPolicy: {{ .root.Values.images.pullPolicy }}
      command: {{ prepend .command "esper" | toJson }}
      env:
        {{- $told := include "esper.pulsar-environment" .root | fromYaml }}
        {{- $_ := set $told "ESPER_LIBRARY_URL" (include "esper.urza-url" .root) }}
        {{- $_ := set $told "ESPER_LIBRARY_TOKEN_FILE" "/var/run/secrets/esper-library/token" }}
        {{- $_ := set $told (printf "%s_BUS_KEY_FILE" .prefix) "/var/run/secrets/esper-bus/key.pem" }}
        {{- $_ := set $told (printf "%s_BUS_TRUST_DIR" .prefix) "/etc/esper-trusted" }}
        {{- $_ := set $told (printf "%s_LOG_LEVEL" .prefix) .values.logLevel }}
        {{- $_ := set $told (printf "%s_HTTP_HOST" .prefix) "0.0.0.0" }}
        {{- $_ := set $told (printf "%s_HTTP_PORT" .prefix) "8470" }}
        {{- if .signs }}
        {{- $_ := set $told (printf "%s_WORKDIR" .prefix) "/var/lib/esper" }}
        {{- $_ := set $told (printf "%s_SIGNING_KEY_FILE" .prefix) "/var/run/secrets/esper-signing/key.pem" }}
        {{- end }}
        {{- if eq .part "urabrask" }}
        {{- $_ := set $told "ESPER_URABRASK_PUBLIC_KEYS_FILE" "/etc/esper-kernels/public.json" }}
        {{- end }}
        {{- if eq .part "tezzeret" }}
        {{- $_ := set $told "ESPER_TEZZERET_PROCESSES" .values.processes }}
        {{- end }}
        {{- range $variable, $value := mergeOverwrite $told .root.Values.worker.env }}
        - {name: {{ $variable }}, value: {{ $value | quote }}}
        {{- end }}
      ports:
        - {name: http, containerPort: 8470}
      startupProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 5
        failureThreshold: 24
      livenessProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 20
        timeoutSeconds: 5
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
      resources:
        {{- toYaml .values.resources | nindent 8 }}
      {{- include "esper.container-security" .root | nindent 6 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: library, mountPath: /var/run/secrets/esper-library, readOnly: true}
        {{- include "esper.bus-mounts" .root | nindent 8 }}
        {{- if .signs }}
        - {name: work, mountPath: /var/lib/esper}
        - {name: signing, mountPath: /var/run/secrets/esper-signing, readOnly: true}
        {{- end }}
        {{- with .root.Values.worker.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    - name: library
      projected:
        sources:
          - serviceAccountToken: {path: token, expirationSeconds: 3600, audience: {{ .root.Values.urza.tokens.audience }}}
    {{- include "esper.bus-volumes" (dict "root" .root "secret" (printf "%s-bus-%s" (include "esper.fullname" .root) .part)) | nindent 4 }}
    {{- if .signs }}
    - name: work
      emptyDir: {}
    - name: signing
      secret: {secretName: {{ include "esper.fullname" .root }}-signing-{{ .signs }}, defaultMode: 0440, items: [{key: key.pem, path: key.pem}]}
    {{- end }}
    {{- if and (eq .part "dispatcher") .root.Values.pulsar.adminSecret }}
    - name: pulsar-admin
      secret: {secretName: {{ .root.Values.pulsar.adminSecret }}, defaultMode: 0440, items: [{key: {{ .root.Values.pulsar.adminTokenKey }}, path: token}]}
    {{- end }}
    {{- with .root.Values.worker.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
