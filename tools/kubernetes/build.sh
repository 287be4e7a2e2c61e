#!/bin/sh
# Builds programs of Kubernetes 1.20.2 from Debian 12's source package, statically linked.
#   build.sh install            what building and running needs: Go, etcd, dpkg-source
#   build.sh OUT PROGRAM...     into OUT; sources and Go's cache stay in OUT/work for the next one
#
# Debian has no binary package of the API server, and the source package lacks two things: a
# reflect2 that works with Go 1.18 and later (modern-go/reflect2 issue 26), and the generated
# OpenAPI definitions. Nothing else of `make` is needed: all other generated files are in it.
set -eu
PATH=$PATH:/usr/sbin:/sbin
VERSION=v1.20.2

install_packages() {
    missing=
    command -v go >/dev/null || missing="$missing golang-go"
    command -v etcd >/dev/null || missing="$missing etcd-server"
    command -v dpkg-source >/dev/null || missing="$missing dpkg-dev"
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
        missing="$missing debian-archive-keyring"
    [ -n "$missing" ] || exit 0
    # etcd's starts a service where there is an init to start it; ours runs on other ports.
    # shellcheck disable=SC2086  # a word is a package
    "$(dirname "$0")/../install-packages.sh" kubernetes $missing
}

# Debian 12's archive in an apt state of our own: the machine's is not touched.
fetch_source() {
    mirror=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Component: main' | head -n1)
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p apt/lists/partial apt/cache/archives/partial k
    for kind in deb deb-src; do
        echo "$kind [signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} bookworm main"
    done >apt/sources.list
    apt_get="apt-get -qq -o Dir::Etc::sourcelist=$PWD/apt/sources.list
        -o Dir::Etc::sourceparts=- -o Dir::State::lists=$PWD/apt/lists
        -o Dir::Cache=$PWD/apt/cache -o APT::Sandbox::User=root"
    $apt_get update
    $apt_get source --download-only kubernetes
    $apt_get download golang-github-modern-go-reflect2-dev
    tar xf kubernetes_*.orig.tar.gz -C k --strip-components=1
    dpkg-deb -x golang-github-modern-go-reflect2-dev_*.deb reflect2
    rm k/vendor/github.com/modern-go/reflect2/*.go
    cp -r reflect2/usr/share/gocode/src/github.com/modern-go/reflect2/* \
        k/vendor/github.com/modern-go/reflect2/
    rm -r apt reflect2 ./*.deb kubernetes_*
    mkdir -p gopath/src/k8s.io
    ln -sfn ../../../k gopath/src/k8s.io/kubernetes
}

generate_openapi() {
    go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    marked=
    for part in api apimachinery apiserver apiextensions-apiserver kube-aggregator client-go; do
        marked="$marked vendor/k8s.io/$part/"
    done
    # shellcheck disable=SC2086
    packages=$(grep -rl --include='*.go' '+k8s:openapi-gen=true' $marked | xargs -n1 dirname |
        sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd,)
    "$work/openapi-gen" --logtostderr -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi \
        -O zz_generated.openapi -h hack/boilerplate/boilerplate.generatego.txt \
        -r /dev/null -o "$work/gopath/src"
}

build() {
    base=k8s.io/kubernetes/vendor/k8s.io
    flags="-s -w -X $base/component-base/version.gitVersion=$VERSION"
    flags="$flags -X $base/component-base/version.gitMajor=1"
    flags="$flags -X $base/component-base/version.gitMinor=20"
    flags="$flags -X $base/client-go/pkg/version.gitVersion=$VERSION"
    go build -tags providerless,dockerless -ldflags "$flags" -o "$out/$1.new" "./cmd/$1"
    mv "$out/$1.new" "$out/$1"
}

if [ "${1:-}" = install ]; then
    install_packages
    exit
fi
out=$(realpath "$1")
shift
work=$out/work
mkdir -p "$work"
cd "$work"
export GO111MODULE=off GOPATH="$work/gopath" GOCACHE="$work/go-cache" CGO_ENABLED=0
if [ ! -e "$work/ready" ]; then
    rm -rf apt k reflect2 gopath ./*.deb kubernetes_*
    fetch_source
    cd gopath/src/k8s.io/kubernetes
    generate_openapi
    touch "$work/ready"
fi
cd "$work/gopath/src/k8s.io/kubernetes"
for program; do
    echo "kubernetes: building $program" >&2
    build "$program"
done
